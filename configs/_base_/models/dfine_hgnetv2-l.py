# D-FINE-L: HGNetv2-B4, three levels, six decoder layers. 31,244,152 parameters.
model = dict(
    type='DFINE',
    num_queries=300,
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[0.0, 0.0, 0.0],  # images are divided by 255, nothing else
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='HGNetv2',
        name='B4',
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
    ),
    query_selection=dict(act='relu'),
    decoder=dict(
        type='DFINEDecoder',
        embed_dims=256,
        num_layers=6,
        ffn_channels=1024,
        points_per_level=(3, 6, 3),
        reg_max=32,
        reg_scale=4.0,
        act='relu',
    ),
    denoising=dict(type='ContrastiveDenoising', num_queries=100),
    bbox_head=dict(type='DFINEHead', num_classes=80),
    test_cfg=dict(max_per_img=300),
)
