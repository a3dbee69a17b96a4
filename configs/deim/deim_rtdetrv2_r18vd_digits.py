# DEIM-RT-DETRv2-R18 on digits in scenes, for a GPU.
# mim train mmdet configs/deim/deim_rtdetrv2_r18vd_digits.py --gpus 1
_base_ = [
    '../_base_/models/deim_rtdetrv2_r50vd.py',
    '../_base_/datasets/digits_dense_o2o.py',
    '../_base_/schedules/deim_digits.py',
]

model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
    backbone=dict(depth=18),
    neck=dict(in_channels=[128, 256, 512], expansion=0.5),
    decoder=dict(num_layers=3),
    bbox_head=dict(num_classes=10),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))  # as on COCO, there with 16 images
