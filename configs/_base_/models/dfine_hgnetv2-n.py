# D-FINE-N: HGNetv2-B0, two levels, three decoder layers. 3,782,693 parameters.
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
    backbone=dict(type='HGNetv2', name='B0', out_indices=(2, 3)),
    neck=dict(
        type='HybridEncoder',
        in_channels=[512, 1024],
        embed_dims=128,
        ffn_channels=512,
        expansion=0.34,
        depth_mult=0.5,
    ),
    query_selection=dict(act='relu'),
    decoder=dict(
        type='DFINEDecoder',
        embed_dims=128,
        num_layers=3,
        ffn_channels=512,
        points_per_level=(6, 6),
        reg_max=32,
        reg_scale=4.0,
        act='relu',
    ),
    denoising=dict(type='ContrastiveDenoising', num_queries=100),
    bbox_head=dict(type='DFINEHead', num_classes=80),
    test_cfg=dict(max_per_img=300),
)
