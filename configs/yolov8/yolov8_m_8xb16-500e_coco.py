# YOLOv8-M: 25.9 M parameters, 79 GFLOPs.
# Published: 50.2* AP on COCO val2017.
_base_ = './yolov8_n_8xb16-500e_coco.py'

model = dict(
    backbone=dict(size='m'),
    neck=dict(in_channels=[192, 384, 576], num_blocks=2),
    bbox_head=dict(in_channels=[192, 384, 576], cls_channels=192),
)
