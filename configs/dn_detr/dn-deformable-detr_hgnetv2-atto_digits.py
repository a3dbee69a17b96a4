# DN-Deformable-DETR with an HGNetv2-Atto backbone, from scratch, on small scenes of digits: small
# enough to see on one CPU core what denoising changes, see docs/dn_detr.md.
# python tools/benchmark_denoising.py
#     --configs configs/dn_detr/dn-deformable-detr_hgnetv2-atto_digits.py
_base_ = ['../_base_/models/dn-deformable-detr_r50.py', '../_base_/default_runtime.py']

# epochs, counted from 0
max_epochs = 12
lr_drop = 10

dims = 64  # 256 on COCO
attention = dict(embed_dims=dims, num_heads=4)
deformable_attention = dict(num_levels=2, num_points=4, **attention)
ffn = dict(embed_dims=dims, feedforward_channels=256)
model = dict(
    num_queries=20,  # 300 on COCO
    num_feature_levels=2,
    backbone=dict(_delete_=True, type='HGNetv2', name='Atto', out_indices=(1, 2)),
    neck=dict(in_channels=[256, 256], out_channels=dims, norm_cfg=dict(num_groups=8), num_outs=2),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=deformable_attention, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=deformable_attention, ffn_cfg=ffn),
    ),
    positional_encoding=dict(num_feats=dims // 2),
    bbox_head=dict(num_classes=10, embed_dims=dims),
    test_cfg=dict(max_per_img=20),
)

# one to four digits in a scene of 96 x 96 pixels
data_root = 'data/digits-96'
image_hw = (96, 96)
digits = dict(num_train=1000, num_val=200, image_hw=image_hw, objects=(1, 4), digit_size=(18, 48))
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='DigitsInScenes',
        data_root=data_root,
        split='train',
        options=digits,
        pipeline=[
            dict(type='LoadReadableImage', unreadable='stop'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=image_hw[::-1], keep_ratio=False),
            dict(type='PackDetInputs', meta_keys=meta_keys),
        ],
    ),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='DigitsInScenes',
        data_root=data_root,
        split='val',
        options=digits,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='CheckImageFile'),
            dict(type='Resize', scale=image_hw[::-1], keep_ratio=False),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs', meta_keys=meta_keys),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CheckedCocoMetric',
    ann_file=data_root + '/annotations/val.json',
    metric='bbox',
    format_only=False,
)
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[lr_drop], gamma=0.1)
custom_hooks = [dict(type='MatchingStabilityHook')]
