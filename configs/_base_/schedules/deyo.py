# Second stage of DEYO (https://arxiv.org/abs/2402.16370): backbone and neck of a trained YOLOv8
# stay as they are, a decoder is trained on them; 96 epochs of 8 x 2 images.
_base_ = '../default_runtime.py'

# epochs, counted from 0
max_epochs = 96
no_mosaic_epochs = 24
mosaic_end = max_epochs - no_mosaic_epochs

sync_bn = 'torch'  # in distributed runs

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AnyDeviceAmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(rules=[dict(kinds=['norm', 'bias'], decay_mult=0.0)]),
)
param_scheduler = []  # constant, without a warm-up
auto_scale_lr = dict(enable=False, base_batch_size=16)

default_hooks = dict(
    dense_o2o=dict(type='DenseO2OHook', stages=(0, mosaic_end, mosaic_end)),
    staged_freeze=dict(type='StagedFreezeHook', parts=['backbone', 'neck']),
    ema=dict(type='WarmupEMAHook', decay=0.9999, warmup=2000),
)
