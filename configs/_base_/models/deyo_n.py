# DEYO-N: a decoder on the backbone, neck and box branch of YOLOv8-N. 5,435,944 parameters, 515,760
# fewer than published: the class branch of YOLOv8, which is not used, is left out.
model = dict(
    type='DEYO',
    num_queries=300,
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[0.0, 0.0, 0.0],  # images are divided by 255, nothing else
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='YOLOv8Backbone', size='n', out_indices=(1, 2, 3)),
    neck=dict(type='YOLOv8PAFPN', in_channels=[64, 128, 256], num_blocks=1),
    decoder=dict(
        type='DEYODecoder',
        embed_dims=128,
        num_layers=6,
        ffn_channels=1024,
        points_per_level=(4, 4, 4),
        query_pos_dims=(256,),
        act='relu',
    ),
    denoising=dict(type='UnpaddedDenoising', num_queries=100),
    bbox_head=dict(
        type='DEYOHead',
        num_classes=80,
        loss_cls=dict(type='FullGradientVarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    test_cfg=dict(max_per_img=300),
)
