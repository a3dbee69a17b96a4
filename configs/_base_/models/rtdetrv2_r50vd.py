# RT-DETRv2-R50: ResNet-50-vd, three levels, six decoder layers. 42,891,372 parameters.
# RT-DETR is the same network.
model = dict(
    type='RTDETR',
    num_queries=300,
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[0.0, 0.0, 0.0],  # images are divided by 255, nothing else
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='PResNet',
        depth=50,
        out_indices=(1, 2, 3),
        frozen_stages=0,  # the stem
        freeze_norm=True,
    ),
    neck=dict(
        type='HybridEncoder',
        in_channels=[512, 1024, 2048],
        embed_dims=256,
        ffn_channels=1024,
        expansion=1.0,
        depth_mult=1.0,
        block_cfg=dict(type='CSPRepLayer'),
        downsample_cfg=dict(type='ConvDownsample'),
        lateral_act_cfg=dict(type='SiLU'),
    ),
    query_selection=dict(act='relu'),
    decoder=dict(
        type='RTDETRDecoder',
        embed_dims=256,
        num_layers=6,
        ffn_channels=1024,
        points_per_level=(4, 4, 4),
        query_pos_dims=(512,),
        act='relu',
    ),
    denoising=dict(type='ContrastiveDenoising', num_queries=100),
    bbox_head=dict(
        type='RTDETRHead',
        num_classes=80,
        loss_cls=dict(type='IoUVarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0),
    ),
    test_cfg=dict(max_per_img=300),
)
