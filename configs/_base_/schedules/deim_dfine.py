# Recipe of DEIM (https://arxiv.org/abs/2412.04234) for D-FINE, with the values of L: 58 epochs of
# 8 x 4 images.
_base_ = './dfine.py'

# epochs, counted from 0
max_epochs = 58  # 80 in D-FINE
no_aug_epochs = 8
mosaic_begin = 4
mosaic_end = 29
plain_end = max_epochs - no_aug_epochs

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4))  # 2.5e-4 in D-FINE
param_scheduler = dict(  # constant after 500 iterations in D-FINE
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
    two_stage_end=dict(begin=plain_end),
)
