# DN-Deformable-DETR, R50, in 12 epochs; not in the authors' model zoo, whose 43.4* has deformable
# attention in the encoder alone.
# Without denoising: --cfg-options model.denoising=None
_base_ = './dn-deformable-detr_r50_8xb2-50e_coco.py'

# epochs, counted from 0
max_epochs = 12
lr_drop = 11

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = dict(milestones=[lr_drop])
