# RT-DETR-R50 (DETRs Beat YOLOs on Real-time Object Detection, CVPR 2024,
# https://arxiv.org/abs/2304.08069)
# 42.9 M parameters, 131 GFLOPs at 640 x 640.
# Published: 53.1* AP on COCO val2017 after 72 epochs of 8 x 2 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/rtdetr/rtdetr_r50vd_8xb2-72e_coco.py 8
_base_ = [
    '../_base_/models/rtdetrv2_r50vd.py',
    '../_base_/datasets/coco_dense_o2o.py',
    '../_base_/schedules/rtdetr.py',
]

train_dataloader = dict(batch_size=2)

# ImageNet weights of ResNet-vd as RT-DETR publishes them
backbone_weights = (
    'https://github.com/lyuwenyu/storage/releases/download/v0.1/'
    'ResNet50_vd_ssld_v2_pretrained_from_paddle.pth'
)

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=backbone_weights)),
    data_preprocessor=dict(batch_augments=[dict(type='BatchRandomSize', base_size=640, repeat=3)]),
)
