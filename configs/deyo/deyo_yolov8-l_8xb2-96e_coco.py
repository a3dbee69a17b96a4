# DEYO-L: 46.4 M parameters, 157 GFLOPs.
# Published: 52.7* AP on COCO val2017 after 96 epochs of 16 images.
_base_ = './deyo_yolov8-n_8xb2-96e_coco.py'

model = dict(
    backbone=dict(size='l'),
    neck=dict(in_channels=[256, 512, 512], num_blocks=3),
    decoder=dict(embed_dims=256, query_pos_dims=(512,)),
)
