# DEIM-D-FINE-S: 10.3 M parameters, 25 GFLOPs.
# Published: 49.0* AP on COCO val2017 after 132 epochs of 8 x 4 images (D-FINE: 48.7*).
_base_ = './deim_dfine_hgnetv2-l_8xb4-58e_coco.py'

# epochs, counted from 0
max_epochs = 132
no_aug_epochs = 12
mosaic_begin = 4
mosaic_end = 64
plain_end = max_epochs - no_aug_epochs

backbone_weights = (
    'https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B0_stage1.pth'
)

model = dict(
    backbone=dict(name='B0', init_cfg=dict(checkpoint=backbone_weights)),
    neck=dict(in_channels=[256, 512, 1024], expansion=0.5, depth_mult=0.34),
    decoder=dict(num_layers=3),
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchMixUp', prob=0.5),
            dict(type='BatchRandomSize', base_size=640, repeat=20),
        ]
    ),
)

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    optimizer=dict(lr=4e-4, weight_decay=1e-4),
    paramwise_cfg=dict(
        rules=[
            dict(kinds=['norm'], decay_mult=0.0),
            dict(pattern=r'^backbone\.', lr_mult=0.5),
        ]
    ),
)
param_scheduler = dict(flat_until=mosaic_end, no_aug=no_aug_epochs)
default_hooks = dict(
    dense_o2o=dict(stages=(mosaic_begin, mosaic_end, plain_end)),
    two_stage_end=dict(begin=plain_end),
)
