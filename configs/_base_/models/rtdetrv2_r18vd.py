# RT-DETRv2-R18: ResNet-18-vd, narrower fusion, three decoder layers. 20,184,464 parameters.
_base_ = './rtdetrv2_r50vd.py'

model = dict(
    backbone=dict(depth=18, frozen_stages=-1, freeze_norm=False),
    neck=dict(in_channels=[128, 256, 512], expansion=0.5),
    decoder=dict(num_layers=3),
)
