# DEIM trains D-FINE with the Matchability-Aware Loss, silu in the decoder and nothing frozen.
_base_ = './dfine_hgnetv2-l.py'

model = dict(
    backbone=dict(frozen_stages=-1, freeze_norm=False),  # stem and norms frozen in D-FINE
    query_selection=dict(act='silu'),  # relu in D-FINE
    decoder=dict(act='silu'),  # relu in D-FINE
    bbox_head=dict(type='DEIMHead'),  # DFINEHead in D-FINE
)
