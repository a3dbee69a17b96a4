# Recipe of DEIM for digits in scenes: that of deim_dfine_hgnetv2-n_8xb16-160e_coco.py, scaled
# to a set that trains on two CPU cores.
_base_ = '../default_runtime.py'

# epochs, counted from 0
max_epochs = 7
no_aug_epochs = 1
mosaic_begin = 3  # 4 of 160 on COCO: most of what 1,000 steps learn is learnt in the plain start
mosaic_end = 5
plain_end = max_epochs - no_aug_epochs
ema_decay = 0.9999

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4),  # 8e-4
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(
        # the backbone starts from scratch, so it has no smaller rate as on COCO
        rules=[dict(kinds=['norm', 'bias'], decay_mult=0.0)],
    ),
)
param_scheduler = dict(
    type='FlatCosineLR',
    convert_to_iter_based=True,
    flat_until=mosaic_end,
    no_aug=no_aug_epochs,
    gamma=0.1,  # constant on COCO
    warmup=2000,
)
default_hooks = dict(
    logger=dict(interval=20),
    channels_last=dict(type='ChannelsLastHook'),
    dense_o2o=dict(type='DenseO2OHook', stages=(mosaic_begin, mosaic_end, plain_end)),
    # a window of 1/20 of the run, 1/8 elsewhere: so short a run changes all the time
    ema=dict(type='WarmupEMAHook', decay=ema_decay, warmup=1000, max_window_share=0.05),
    two_stage_end=dict(type='TwoStageEndHook', begin=plain_end, restart_decay=ema_decay),
)
