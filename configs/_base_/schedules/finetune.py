# Fine-tuning of trained weights on own classes, from a few hundred images on. Everything that
# counts in iterations is a share of the run: warm-up, window of the average.
_base_ = '../default_runtime.py'

# epochs, counted from 0; tools/train_custom.py --epochs changes all of them together
max_epochs = 30
no_aug_epochs = 5
mosaic_begin = 2
mosaic_end = 15
plain_end = max_epochs - no_aug_epochs
ema_decay = 0.9999

sync_bn = 'torch'  # in distributed runs

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AnyDeviceAmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(
        decay_norms=False,
        rules=[
            # new rows may be among these
            dict(pattern=r'cls_branch|label_embedding|fc_cls', kinds=['bias'], decay_mult=0.0),
            dict(pattern=r'cls_branch|label_embedding|fc_cls'),
            # what was loaded needs less
            dict(pattern=r'^backbone\.', lr_mult=0.02),
            dict(lr_mult=0.1),
        ],
    ),
)
param_scheduler = dict(
    type='FlatCosineLR',
    convert_to_iter_based=True,
    flat_until=mosaic_end,
    no_aug=no_aug_epochs,
    gamma=0.1,
    warmup=500,
    max_warmup_share=0.05,
)
auto_scale_lr = dict(enable=False, base_batch_size=8)

default_hooks = dict(
    channels_last=dict(type='ChannelsLastHook'),
    dense_o2o=dict(type='DenseO2OHook', stages=(mosaic_begin, mosaic_end, plain_end)),
    # a window of 1/20 of the run at most, 1/8 elsewhere
    ema=dict(type='WarmupEMAHook', decay=ema_decay, warmup=1000, max_window_share=0.05),
    two_stage_end=dict(type='TwoStageEndHook', begin=plain_end, restart_decay=ema_decay),
)
