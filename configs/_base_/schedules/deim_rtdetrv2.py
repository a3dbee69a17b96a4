# Recipe of DEIM (https://arxiv.org/abs/2412.04234) for RT-DETRv2, with the values of R50: 60 epochs
# of 8 x 2 images.
_base_ = './rtdetrv2.py'

# epochs, counted from 0
max_epochs = 60  # 72 in RT-DETRv2
no_aug_epochs = 2
mosaic_begin = 4
mosaic_end = 34
plain_end = max_epochs - no_aug_epochs

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2e-4))  # 1e-4 in RT-DETRv2
param_scheduler = dict(  # constant after 2000 iterations in RT-DETRv2
    _delete_=True,
    type='FlatCosineLR',
    convert_to_iter_based=True,
    flat_until=mosaic_end,
    no_aug=no_aug_epochs,
    gamma=0.5,
    warmup=2000,
    first_factor=1 / 2000,
)
default_hooks = dict(
    dense_o2o=dict(stages=(mosaic_begin, mosaic_end, plain_end)),
    two_stage_end=dict(type='TwoStageEndHook', begin=plain_end, restart_decay=0.9999),
)
