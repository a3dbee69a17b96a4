# YOLOv8-N. 3,157,200 parameters.
model = dict(
    type='YOLOv8',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[0.0, 0.0, 0.0],  # images are divided by 255, nothing else
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='YOLOv8Backbone', size='n', out_indices=(1, 2, 3)),
    neck=dict(type='YOLOv8PAFPN', in_channels=[64, 128, 256], num_blocks=1),
    bbox_head=dict(
        type='YOLOv8Head',
        num_classes=80,
        in_channels=[64, 128, 256],
        # as published for 80 classes; stated, so that any other number can start from such weights
        cls_channels=80,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
        loss_bbox=dict(type='CompleteIoULoss', loss_weight=7.5),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=1.5),
        assigner=dict(type='BatchTaskAlignedAssigner', topk=10, alpha=0.5, beta=6.0),
    ),
    test_cfg=dict(
        score_thr=0.001,
        nms_pre=3000,
        nms=dict(type='nms', iou_threshold=0.7),
        max_per_img=300,
    ),
)
