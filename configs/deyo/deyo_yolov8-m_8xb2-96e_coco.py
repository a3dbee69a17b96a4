# DEYO-M: 30.3 M parameters, 79 GFLOPs.
# Published: 50.7* AP on COCO val2017 after 96 epochs of 16 images.
_base_ = './deyo_yolov8-n_8xb2-96e_coco.py'

model = dict(
    backbone=dict(size='m'),
    neck=dict(in_channels=[192, 384, 576], num_blocks=2),
    decoder=dict(embed_dims=256, query_pos_dims=(512,)),
)
