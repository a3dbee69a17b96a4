# DEIM-D-FINE-X on COCO, beginning with D-FINE-X trained on Objects365.
# Published: 59.5* AP on COCO val2017 after 24 epochs of 8 x 4 images (D-FINE: 59.3*).
_base_ = './deim_dfine_hgnetv2-x_8xb4-58e_coco.py'

# epochs, counted from 0
max_epochs = 24
no_aug_epochs = 4
mosaic_begin = 2
mosaic_end = 12
plain_end = max_epochs - no_aug_epochs

# As published; converted on loading, class by class: 80 of the 365 classes are COCO's.
load_from = 'https://github.com/Peterande/storage/releases/download/dfinev1.0/dfine_x_obj365.pth'

model = dict(
    # as D-FINE: stem and norms frozen, relu
    backbone=dict(init_cfg=None, frozen_stages=0, freeze_norm=True),
    query_selection=dict(act='relu'),
    decoder=dict(act='relu'),
)

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2.5e-4))
param_scheduler = dict(flat_until=max_epochs, no_aug=no_aug_epochs, gamma=1.0, warmup=0)  # constant
default_hooks = dict(
    dense_o2o=dict(stages=(mosaic_begin, mosaic_end, plain_end)),
    ema=dict(warmup=0),
    two_stage_end=dict(begin=plain_end, restart_decay=0.9999),
)
