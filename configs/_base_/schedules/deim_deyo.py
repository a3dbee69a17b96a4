# Second stage of DEYO in the way of DEIM (https://arxiv.org/abs/2412.04234): as many epochs, the
# stages and the learning rate of DEIM-RT-DETRv2.
_base_ = './deyo.py'

# epochs, counted from 0
max_epochs = 96
no_aug_epochs = 3
mosaic_begin = 4
mosaic_end = 52
plain_end = max_epochs - no_aug_epochs

optim_wrapper = dict(optimizer=dict(lr=2e-4))  # 1e-4 in DEYO
param_scheduler = dict(  # constant in DEYO
    _delete_=True,
    type='FlatCosineLR',
    convert_to_iter_based=True,
    flat_until=mosaic_end,
    no_aug=no_aug_epochs,
    gamma=0.5,
    warmup=2000,
)
default_hooks = dict(
    dense_o2o=dict(stages=(mosaic_begin, mosaic_end, plain_end)),
    two_stage_end=dict(type='TwoStageEndHook', begin=plain_end, restart_decay=0.9999),
)
