# Digits in scenes for ResNet-50 from scratch: small enough to look at a recipe on a CPU.
_base_ = ['../../_base_/datasets/digits_dense_o2o.py', '../../_base_/default_runtime.py']

# epochs, counted from 0
max_epochs = 7
mosaic_begin = 3  # 1 of 12 on COCO: most of what so short a run learns is learnt in the plain start
mosaic_end = 5
plain_end = 6

# for model.backbone: without ImageNet weights nothing may be frozen
backbone_from_scratch = dict(
    init_cfg=None,
    frozen_stages=-1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=False,
)

train_dataloader = dict(batch_size=4)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_epochs,
        by_epoch=True,
        milestones=[plain_end],
        gamma=0.1,
    )
]
default_hooks = dict(
    logger=dict(interval=20),
    dense_o2o=dict(type='DenseO2OHook', stages=(mosaic_begin, mosaic_end, plain_end)),
)
