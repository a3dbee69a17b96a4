# DDQ-DETR, four levels, R50, trained the DEIM way on digits in scenes.
# mim train mmdet configs/any_detr/deim_ddq-detr-4scale_r50_digits.py --gpus 0
_base_ = ['./_base_/ddq-detr-4scale_r50.py', './_base_/digits.py']

model = dict(
    num_queries=100,
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
    backbone=_base_.backbone_from_scratch,
    bbox_head=dict(
        type='QualityDDQDETRHead',
        num_classes=10,
        loss_cls=dict(_delete_=True, type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
    ),
)
