# DEYO-S: 12.5 M parameters, 27 GFLOPs.
# Published: 45.8* AP on COCO val2017 after 96 epochs of 16 images.
_base_ = './deyo_yolov8-n_8xb2-96e_coco.py'

model = dict(
    backbone=dict(size='s'),
    neck=dict(in_channels=[128, 256, 512]),
)
