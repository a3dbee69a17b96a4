# D-FINE-N: 3.78 M parameters, 7.2 GFLOPs.
# Published: 42.8* AP on COCO val2017 after 160 epochs of 8 x 16 images.
_base_ = [
    '../_base_/models/dfine_hgnetv2-n.py',
    '../_base_/datasets/coco_dense_o2o.py',
    '../_base_/schedules/dfine.py',
]

# epochs, counted from 0
max_epochs = 160
no_aug_epochs = 12
plain_end = max_epochs - no_aug_epochs

train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(base_batch_size=128)

backbone_weights = (
    'https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B0_stage1.pth'
)

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=backbone_weights)))

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    optimizer=dict(lr=8e-4, weight_decay=1e-4),
    paramwise_cfg=dict(
        rules=[
            dict(pattern=r'^backbone\.', lr_mult=0.5),
            dict(kinds=['norm', 'bias'], decay_mult=0.0),
        ]
    ),
)
default_hooks = dict(
    dense_o2o=dict(stages=(0, 0, plain_end)),
    two_stage_end=dict(begin=plain_end),
)
