# DEYO-X: 71.3 M parameters, 244 GFLOPs.
# Published: 53.7* AP on COCO val2017 after 96 epochs of 16 images.
_base_ = './deyo_yolov8-n_8xb2-96e_coco.py'

model = dict(
    backbone=dict(size='x'),
    neck=dict(in_channels=[320, 640, 640], num_blocks=3),
    decoder=dict(embed_dims=320, query_pos_dims=(640,)),
)
