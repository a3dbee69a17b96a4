# DEIM-RT-DETRv2-R50 (DEIM: DETR with Improved Matching, CVPR 2025,
# https://arxiv.org/abs/2412.04234)
# 42.9 M parameters, 131 GFLOPs at 640 x 640.
# Published: 54.3* AP on COCO val2017 after 60 epochs of 8 x 2 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/deim/deim_rtdetrv2_r50vd_8xb2-60e_coco.py 8
_base_ = [
    '../_base_/models/deim_rtdetrv2_r50vd.py',
    '../_base_/datasets/coco_dense_o2o.py',
    '../_base_/schedules/deim_rtdetrv2.py',
]

train_dataloader = dict(batch_size=2)

# ImageNet weights of ResNet-vd as RT-DETR publishes them
backbone_weights = (
    'https://github.com/lyuwenyu/storage/releases/download/v0.1/'
    'ResNet50_vd_ssld_v2_pretrained_from_paddle.pth'
)

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=backbone_weights)),
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchMixUp', prob=0.5),
            dict(type='BatchRandomSize', base_size=640, repeat=3),
        ]
    ),
)
