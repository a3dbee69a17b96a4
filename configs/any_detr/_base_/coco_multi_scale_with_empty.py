# COCO as mmdet trains DINO, DDQ-DETR and Deformable DETR on it: images without objects are kept,
# and the crop is taken from an image of any length.
_base_ = './coco_multi_scale.py'

train_pipeline = [
    *_base_.loading,
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [_base_.multi_scale],
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(400, 4200), (500, 4200), (600, 4200)],
                    keep_ratio=True,
                ),
                _base_.crop,
                _base_.multi_scale,
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline)
)
