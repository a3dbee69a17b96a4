# D-FINE-L (D-FINE: Redefine Regression Task in DETRs as Fine-grained Distribution Refinement,
# ICLR 2025, https://arxiv.org/abs/2410.13842)
# 31.2 M parameters, 91 GFLOPs at 640 x 640.
# Published: 54.0* AP on COCO val2017 after 80 epochs of 8 x 4 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/dfine/dfine_hgnetv2-l_8xb4-80e_coco.py 8
_base_ = [
    '../_base_/models/dfine_hgnetv2-l.py',
    '../_base_/datasets/coco_dense_o2o.py',
    '../_base_/schedules/dfine.py',
]

# ImageNet weights of PP-HGNetV2 as D-FINE publishes them
backbone_weights = (
    'https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B4_stage1.pth'
)

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=backbone_weights)),
    data_preprocessor=dict(batch_augments=[dict(type='BatchRandomSize', base_size=640, repeat=4)]),
)
