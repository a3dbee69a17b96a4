# DINO, four levels, R50: mmdet's own config, key by key (DINO, https://arxiv.org/abs/2203.03605).
# Published by mmdet: 49.0* AP on COCO val2017 after 12 epochs with 8 x 2 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/any_detr/dino-4scale_r50_8xb2-12e_coco.py 8
_base_ = ['./_base_/dino-4scale_r50.py', './_base_/coco_multi_scale_with_empty.py']

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[11], gamma=0.1)
]
auto_scale_lr = dict(base_batch_size=16)
