# DEIM-RT-DETRv2-R34: 31.4 M parameters, 90 GFLOPs.
# Published: 50.9* AP on COCO val2017 after 120 epochs of 8 x 2 images (RT-DETRv2: 49.9*).
_base_ = './deim_rtdetrv2_r50vd_8xb2-60e_coco.py'

# epochs, counted from 0
max_epochs = 120
no_aug_epochs = 3
mosaic_begin = 4
mosaic_end = 64
plain_end = max_epochs - no_aug_epochs

backbone_weights = (
    'https://github.com/lyuwenyu/storage/releases/download/v0.1/'
    'ResNet34_vd_pretrained_from_paddle.pth'
)

model = dict(
    backbone=dict(
        depth=34,
        init_cfg=dict(checkpoint=backbone_weights),
    ),
    neck=dict(in_channels=[128, 256, 512], expansion=0.5),
    decoder=dict(num_layers=4),
)

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    paramwise_cfg=dict(
        rules=[
            dict(kinds=['norm'], decay_mult=0.0),
            dict(pattern=r'^backbone\.', lr_mult=0.5),
        ]
    )
)
param_scheduler = dict(flat_until=mosaic_end, no_aug=no_aug_epochs)
default_hooks = dict(
    dense_o2o=dict(stages=(mosaic_begin, mosaic_end, plain_end)),
    two_stage_end=dict(begin=plain_end),
)
