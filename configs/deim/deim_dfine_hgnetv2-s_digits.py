# DEIM-D-FINE-S on digits in scenes, for a GPU.
# mim train mmdet configs/deim/deim_dfine_hgnetv2-s_digits.py --gpus 1
_base_ = [
    '../_base_/models/deim_dfine_hgnetv2-l.py',
    '../_base_/datasets/digits_dense_o2o.py',
    '../_base_/schedules/deim_digits.py',
]

model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
    backbone=dict(name='B0'),
    neck=dict(in_channels=[256, 512, 1024], expansion=0.5, depth_mult=0.34),
    decoder=dict(num_layers=3),
    bbox_head=dict(num_classes=10),
)
optim_wrapper = dict(optimizer=dict(lr=4e-4))  # as on COCO, there with 32 images
