# DEIM-D-FINE-N (DEIM: DETR with Improved Matching, CVPR 2025, https://arxiv.org/abs/2412.04234)
# 3.78 M parameters, 7.2 GFLOPs at 640 x 640.
# Published: 43.0* AP on COCO val2017 after 160 epochs with 8 x 16 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/deim/deim_dfine_hgnetv2-n_8xb16-160e_coco.py 8
_base_ = [
    '../_base_/models/deim_dfine_hgnetv2-n.py',
    '../_base_/datasets/coco_dense_o2o.py',
    '../_base_/default_runtime.py',
]

# Epochs, counted from 0. A child config that changes one of them repeats this file's settings
# below, because mmengine does not compute them again.
max_epochs = 160
no_aug_epochs = 12
mosaic_begin = 4
mosaic_end = 78
plain_end = max_epochs - no_aug_epochs  # the second stage begins
ema_decay = 0.9999

train_dataloader = dict(batch_size=16)

# ImageNet weights of PP-HGNetV2 as D-FINE publishes them
backbone_weights = (
    'https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B0_stage1.pth'
)

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=backbone_weights)),
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),  # N: no multi-scale
)

sync_bn = 'torch'  # in distributed runs

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AnyDeviceAmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=8e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(
        rules=[
            dict(pattern=r'^backbone\.', lr_mult=0.5),
            dict(kinds=['norm', 'bias'], decay_mult=0.0),
        ]
    ),
)
param_scheduler = dict(
    type='FlatCosineLR',
    convert_to_iter_based=True,
    flat_until=mosaic_end,
    no_aug=no_aug_epochs,
    gamma=1.0,  # N keeps its learning rate; 0.5 in the larger models
    warmup=2000,
)
auto_scale_lr = dict(enable=False, base_batch_size=128)

custom_hooks = [
    dict(type='CheckClassesHook'),
    dict(type='UnreadableImagesHook'),
    dict(type='NonFiniteLossHook'),
    dict(type='DenseO2OHook', stages=(mosaic_begin, mosaic_end, plain_end)),
    dict(type='WarmupEMAHook', decay=ema_decay, warmup=1000),
    dict(type='TwoStageEndHook', begin=plain_end, restart_decay=ema_decay),
]
