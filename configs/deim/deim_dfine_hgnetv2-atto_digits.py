# DEIM-D-FINE with an HGNetv2-Atto backbone on digits in scenes: the demo, minutes on two CPU cores.
# 697,273 parameters. AP50 0.858, AP 0.722 on 200 held-out scenes after 7 epochs.
# make demo
_base_ = './deim_dfine_hgnetv2-n_digits.py'

model = dict(
    num_queries=100,  # 300 in N
    backbone=dict(name='Atto', out_indices=(1, 2)),
    neck=dict(in_channels=[256, 256], embed_dims=64, num_heads=4, ffn_channels=256),
    decoder=dict(embed_dims=64, num_heads=4, ffn_channels=256, points_per_level=(4, 4)),
    denoising=dict(num_queries=50),
    test_cfg=dict(max_per_img=100),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))  # 1e-3 in N
