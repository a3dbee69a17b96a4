# DN-Deformable-DETR-R50 (2203.01305): Deformable DETR with learnt anchors and denoising queries.
# model.denoising=None trains the same network without them.
_base_ = '../../any_detr/_base_/deformable-detr_r50.py'

model = dict(
    type='DNDeformableDETR',
    with_box_refine=True,
    neck=dict(bias=True),  # before its norms, too
    encoder=dict(
        layer_cfg=dict(
            self_attn_cfg=dict(dropout=0.0),  # 0.1 in Deformable DETR, everywhere
            ffn_cfg=dict(feedforward_channels=2048, ffn_drop=0.0),
        ),
    ),
    decoder=dict(
        layer_cfg=dict(
            self_attn_cfg=dict(dropout=0.0),
            cross_attn_cfg=dict(dropout=0.0),
            ffn_cfg=dict(feedforward_channels=2048, ffn_drop=0.0),
        ),
    ),
    denoising=dict(type='DenoisingQueryGenerator', num_groups=5, label_noise=0.2, box_noise=0.4),
    bbox_head=dict(type='DNDeformableDETRHead', loss_cls=dict(loss_weight=1.0)),
    test_cfg=dict(max_per_img=300),
)
