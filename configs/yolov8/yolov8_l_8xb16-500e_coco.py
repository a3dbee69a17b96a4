# YOLOv8-L: 43.7 M parameters, 165 GFLOPs.
# Published: 52.9* AP on COCO val2017.
_base_ = './yolov8_n_8xb16-500e_coco.py'

model = dict(
    backbone=dict(size='l'),
    neck=dict(in_channels=[256, 512, 512], num_blocks=3),
    bbox_head=dict(in_channels=[256, 512, 512], cls_channels=256),
)
