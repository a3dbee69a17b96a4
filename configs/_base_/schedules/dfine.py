# Recipe of D-FINE (https://arxiv.org/abs/2410.13842), with the values of L: 80 epochs of 8 x 4
# images.
_base_ = '../default_runtime.py'

# Epochs, counted from 0. A config that changes one of them states again what follows from it,
# because mmengine does not compute a base's values again.
max_epochs = 80
no_aug_epochs = 8
plain_end = max_epochs - no_aug_epochs  # the second stage begins
ema_decay = 0.9999

sync_bn = 'torch'  # in distributed runs

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AnyDeviceAmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=2.5e-4, betas=(0.9, 0.999), weight_decay=1.25e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(
        rules=[
            dict(pattern=r'^backbone\.', lr_mult=0.05),
            dict(kinds=['norm'], decay_mult=0.0),
        ]
    ),
)
param_scheduler = dict(type='LinearWarmupLR', convert_to_iter_based=True, warmup=500)
auto_scale_lr = dict(enable=False, base_batch_size=32)

default_hooks = dict(
    channels_last=dict(type='ChannelsLastHook'),
    dense_o2o=dict(type='DenseO2OHook', stages=(0, 0, plain_end)),  # no mosaic
    ema=dict(type='WarmupEMAHook', decay=ema_decay, warmup=1000),
    two_stage_end=dict(type='TwoStageEndHook', begin=plain_end, restart_decay=ema_decay),
)
