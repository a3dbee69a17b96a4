# DAB-DETR, R50: mmdet's own config, key by key (https://arxiv.org/abs/2201.12329).
# Published by mmdet: 42.3* AP on COCO val2017 after 50 epochs with 8 x 2 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/any_detr/dab-detr_r50_8xb2-50e_coco.py 8
_base_ = ['./_base_/dab-detr_r50.py', './_base_/coco_multi_scale.py']

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1, decay_mult=1.0))),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_interval=1)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[40], gamma=0.1)
]
auto_scale_lr = dict(base_batch_size=16, enable=False)
