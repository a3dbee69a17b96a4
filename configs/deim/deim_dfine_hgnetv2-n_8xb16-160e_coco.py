# DEIM-D-FINE-N (DEIM: DETR with Improved Matching, CVPR 2025, https://arxiv.org/abs/2412.04234)
# 3.78 M parameters, 7.2 GFLOPs at 640 x 640.
# Published: 43.0* AP on COCO val2017 after 160 epochs of 8 x 16 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/deim/deim_dfine_hgnetv2-n_8xb16-160e_coco.py 8
_base_ = [
    '../_base_/models/deim_dfine_hgnetv2-n.py',
    '../_base_/datasets/coco_dense_o2o.py',
    '../_base_/schedules/deim_dfine.py',
]

# epochs, counted from 0
max_epochs = 160
no_aug_epochs = 12
mosaic_begin = 4
mosaic_end = 78
plain_end = max_epochs - no_aug_epochs

train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(base_batch_size=128)

# ImageNet weights of PP-HGNetV2 as D-FINE publishes them
backbone_weights = (
    'https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B0_stage1.pth'
)

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=backbone_weights)),
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),  # N: no multi-scale
)

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
param_scheduler = dict(
    flat_until=mosaic_end,
    no_aug=no_aug_epochs,
    gamma=1.0,  # N keeps its learning rate; 0.5 in the larger models
)
default_hooks = dict(
    dense_o2o=dict(stages=(mosaic_begin, mosaic_end, plain_end)),
    two_stage_end=dict(begin=plain_end),
)
