# DN-DETR, R50, in 12 epochs; not in the authors' model zoo.
# Without denoising: --cfg-options model.denoising=None
_base_ = './dn-detr_r50_8xb2-50e_coco.py'

# epochs, counted from 0
max_epochs = 12
lr_drop = 10

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = dict(milestones=[lr_drop])
