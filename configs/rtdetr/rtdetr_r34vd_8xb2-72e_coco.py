# RT-DETR-R34: 31.4 M parameters, 90 GFLOPs.
# Published: 48.9* AP on COCO val2017 after 72 epochs of 8 x 2 images.
_base_ = './rtdetr_r50vd_8xb2-72e_coco.py'

backbone_weights = (
    'https://github.com/lyuwenyu/storage/releases/download/v0.1/'
    'ResNet34_vd_pretrained_from_paddle.pth'
)

model = dict(
    backbone=dict(
        depth=34,
        frozen_stages=-1,  # the stem in R50
        freeze_norm=False,
        init_cfg=dict(checkpoint=backbone_weights),
    ),
    neck=dict(in_channels=[128, 256, 512], expansion=0.5),
    decoder=dict(num_layers=4),
)
