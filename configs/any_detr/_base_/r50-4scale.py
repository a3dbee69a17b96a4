# The detectors on four levels: C3 to C5, and one of half the size of C5.
_base_ = './r50.py'

model = dict(
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(
        in_channels=[512, 1024, 2048],
        norm_cfg=dict(_delete_=True, type='GN', num_groups=32),
        num_outs=4,
    ),
)
