# DN-Deformable-DETR, R50, in 24 epochs. Published: 48.4* AP on COCO val2017.
# * published by the authors; this package has not trained it on COCO.
# Without denoising: --cfg-options model.denoising=None
_base_ = './dn-deformable-detr_r50_8xb2-50e_coco.py'

# epochs, counted from 0
max_epochs = 24
lr_drop = 20

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = dict(milestones=[lr_drop])
