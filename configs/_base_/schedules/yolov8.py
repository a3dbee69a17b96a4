# Training of YOLOv8 from scratch, without ImageNet weights: 500 epochs of 8 x 16 images.
_base_ = '../default_runtime.py'

# epochs, counted from 0
max_epochs = 500
no_mosaic_epochs = 10
mosaic_end = max_epochs - no_mosaic_epochs

sync_bn = 'torch'  # in distributed runs

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AnyDeviceAmpOptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.937, weight_decay=5e-4, nesterov=True),
    clip_grad=dict(max_norm=10.0, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(rules=[dict(kinds=['norm', 'bias'], decay_mult=0.0)]),
)
param_scheduler = [  # the product of both; each ends where the run does
    dict(type='LinearWarmupLR', convert_to_iter_based=True, warmup=3000),
    dict(type='LinearLR', convert_to_iter_based=True, start_factor=1.0, end_factor=0.01),
]
auto_scale_lr = dict(enable=False, base_batch_size=128)

default_hooks = dict(
    dense_o2o=dict(type='DenseO2OHook', stages=(0, mosaic_end, mosaic_end)),
    ema=dict(type='WarmupEMAHook', decay=0.9999, warmup=2000),
)
