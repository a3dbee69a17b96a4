# YOLOv8-X: 68.2 M parameters, 258 GFLOPs.
# Published: 53.9* AP on COCO val2017.
_base_ = './yolov8_n_8xb16-500e_coco.py'

model = dict(
    backbone=dict(size='x'),
    neck=dict(in_channels=[320, 640, 640], num_blocks=3),
    bbox_head=dict(in_channels=[320, 640, 640], cls_channels=320),
)
