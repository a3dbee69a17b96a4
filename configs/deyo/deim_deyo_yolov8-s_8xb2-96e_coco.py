# DEIM-DEYO-S: DEYO-S whose second stage is trained with the matchability-aware loss and Dense O2O
# (DEIM: DETR with Improved Matching, https://arxiv.org/abs/2412.04234).
# 12.5 M parameters, 27 GFLOPs. Nobody has published a result.
# bash tools/dist_train.sh configs/deyo/deim_deyo_yolov8-s_8xb2-96e_coco.py 8 --cfg-options \
#     load_from=work_dirs/yolov8_s_8xb16-500e_coco/epoch_500.pth
_base_ = [
    '../_base_/models/deyo_n.py',
    '../_base_/datasets/coco_dense_o2o_letterbox.py',
    '../_base_/schedules/deim_deyo.py',
]

train_dataloader = dict(batch_size=2)

model = dict(
    backbone=dict(size='s'),
    neck=dict(in_channels=[128, 256, 512]),
    bbox_head=dict(
        # varifocal loss, whose gradient also goes through the weight, in DEYO
        loss_cls=dict(_delete_=True, type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
    ),
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
)
