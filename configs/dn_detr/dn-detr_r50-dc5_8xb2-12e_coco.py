# DN-DETR, R50-DC5, in 12 epochs, with three patterns for each anchor: 900 queries.
# Published: 41.7* AP on COCO val2017.
# * published by the authors; this package has not trained it on COCO.
# Without denoising: --cfg-options model.denoising=None
_base_ = './dn-detr_r50-dc5_8xb2-50e_coco.py'

# epochs, counted from 0
max_epochs = 12
lr_drop = 11

model = dict(num_patterns=3)  # 0 in the training of 50 epochs

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = dict(milestones=[lr_drop])
