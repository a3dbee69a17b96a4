# DEIM-RT-DETRv2 with an HGNetv2-Atto backbone on digits in scenes, of the widths of
# deim_dfine_hgnetv2-atto_digits.py; tools/benchmark_convergence.py trains both.
# mim train mmdet configs/deim/deim_rtdetrv2_hgnetv2-atto_digits.py --gpus 0
_base_ = [
    '../_base_/models/deim_rtdetrv2_r50vd.py',
    '../_base_/datasets/digits_dense_o2o.py',
    '../_base_/schedules/deim_digits.py',
]

dims = 64  # 256 in R50
model = dict(
    num_queries=100,  # 300 in R50
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
    backbone=dict(_delete_=True, type='HGNetv2', name='Atto', out_indices=(1, 2)),
    neck=dict(
        in_channels=[256, 256],
        embed_dims=dims,
        num_heads=4,
        ffn_channels=256,
        expansion=0.34,
        depth_mult=0.5,
    ),
    decoder=dict(
        embed_dims=dims,
        num_layers=3,
        num_heads=4,
        ffn_channels=256,
        points_per_level=(4, 4),
        query_pos_dims=(dims, dims),
    ),
    denoising=dict(num_queries=50),
    bbox_head=dict(num_classes=10),
    test_cfg=dict(max_per_img=100),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))  # 1e-3 in N
