# DEIM-RT-DETRv2-R101: 76.7 M parameters, 249 GFLOPs.
# Published: 55.5* AP on COCO val2017 after 60 epochs of 8 x 2 images (RT-DETRv2: 54.3*).
_base_ = './deim_rtdetrv2_r50vd_8xb2-60e_coco.py'

backbone_weights = (
    'https://github.com/lyuwenyu/storage/releases/download/v0.1/'
    'ResNet101_vd_ssld_pretrained_from_paddle.pth'
)

model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint=backbone_weights)),
    neck=dict(embed_dims=384, ffn_channels=2048),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        rules=[
            dict(kinds=['norm'], decay_mult=0.0),
            dict(pattern=r'^backbone\.', lr_mult=0.01),
        ]
    )
)
