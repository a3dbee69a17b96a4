# YOLOv8-S: 11.2 M parameters, 29 GFLOPs.
# Published: 44.9* AP on COCO val2017.
_base_ = './yolov8_n_8xb16-500e_coco.py'

model = dict(
    backbone=dict(size='s'),
    neck=dict(in_channels=[128, 256, 512]),
    bbox_head=dict(in_channels=[128, 256, 512], cls_channels=128),
)
