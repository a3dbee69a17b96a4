# DEIM trains RT-DETRv2 with the Matchability-Aware Loss, silu and a deeper query position MLP in
# the decoder, and nothing frozen.
_base_ = './rtdetrv2_r50vd.py'

model = dict(
    backbone=dict(frozen_stages=-1, freeze_norm=False),  # stem and norms frozen in RT-DETRv2
    query_selection=dict(act='silu'),  # relu in RT-DETRv2
    decoder=dict(
        query_pos_dims=(256, 256),  # (512,) in RT-DETRv2
        act='silu',  # relu in RT-DETRv2
    ),
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0)
    ),
)
