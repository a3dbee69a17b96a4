# Conditional DETR (2108.06152), on the last level.
_base_ = './r50.py'

attention = dict(embed_dims=256, num_heads=8, attn_drop=0.1)
ffn = dict(
    embed_dims=256,
    feedforward_channels=2048,
    num_fcs=2,
    ffn_drop=0.1,
    act_cfg=dict(type='ReLU', inplace=True),
)
model = dict(
    type='ConditionalDETR',
    num_queries=300,
    encoder=dict(
        num_layers=6,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.1, batch_first=True),
            ffn_cfg=ffn,
        ),
    ),
    decoder=dict(
        num_layers=6,
        layer_cfg=dict(
            self_attn_cfg=dict(cross_attn=False, **attention),
            cross_attn_cfg=dict(cross_attn=True, **attention),
            ffn_cfg=ffn,
        ),
        return_intermediate=True,
    ),
    positional_encoding=dict(num_feats=128, normalize=True),
    bbox_head=dict(type='ConditionalDETRHead', embed_dims=256, loss_cls=dict(loss_weight=2.0)),
    test_cfg=dict(max_per_img=100),
)
