# Recipe of RT-DETRv2 (https://arxiv.org/abs/2407.17140), with the values of R50: 72 epochs of
# 8 x 2 images.
_base_ = '../default_runtime.py'

# epochs, counted from 0
max_epochs = 72
no_aug_epochs = 1
plain_end = max_epochs - no_aug_epochs

sync_bn = 'torch'  # in distributed runs

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AnyDeviceAmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(
        rules=[
            dict(kinds=['norm'], decay_mult=0.0),
            dict(pattern=r'^backbone\.', lr_mult=0.1),
        ]
    ),
)
param_scheduler = dict(type='LinearWarmupLR', convert_to_iter_based=True, warmup=2000)
auto_scale_lr = dict(enable=False, base_batch_size=16)

default_hooks = dict(
    channels_last=dict(type='ChannelsLastHook'),
    dense_o2o=dict(type='DenseO2OHook', stages=(0, 0, plain_end)),  # no mosaic
    ema=dict(type='WarmupEMAHook', decay=0.9999, warmup=2000),
)
