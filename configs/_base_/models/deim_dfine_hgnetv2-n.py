# DEIM trains D-FINE with the Matchability-Aware Loss and silu in the decoder.
_base_ = './dfine_hgnetv2-n.py'

model = dict(
    query_selection=dict(act='silu'),  # relu in D-FINE
    decoder=dict(act='silu'),  # relu in D-FINE
    bbox_head=dict(type='DEIMHead'),  # DFINEHead in D-FINE
)
