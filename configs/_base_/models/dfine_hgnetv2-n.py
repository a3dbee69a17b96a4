# D-FINE-N: HGNetv2-B0, two levels, three decoder layers. 3,782,693 parameters.
_base_ = './dfine_hgnetv2-l.py'

model = dict(
    backbone=dict(name='B0', out_indices=(2, 3), frozen_stages=-1, freeze_norm=False),
    neck=dict(
        in_channels=[512, 1024],
        embed_dims=128,
        ffn_channels=512,
        expansion=0.34,
        depth_mult=0.5,
    ),
    decoder=dict(embed_dims=128, num_layers=3, ffn_channels=512, points_per_level=(6, 6)),
)
