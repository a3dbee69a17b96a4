# DEIM-D-FINE-X: 62.7 M parameters, 203 GFLOPs.
# Published: 56.5* AP on COCO val2017 after 58 epochs of 8 x 4 images (D-FINE: 55.8* after 80).
_base_ = './deim_dfine_hgnetv2-l_8xb4-58e_coco.py'

backbone_weights = (
    'https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B5_stage1.pth'
)

model = dict(
    backbone=dict(name='B5', init_cfg=dict(checkpoint=backbone_weights)),
    neck=dict(embed_dims=384, ffn_channels=2048),
    decoder=dict(reg_scale=8.0),  # 4 in the other sizes
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchMixUp', prob=0.5),
            dict(type='BatchRandomSize', base_size=640, repeat=3),
        ]
    ),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        rules=[
            dict(pattern=r'^backbone\.', lr_mult=0.01),
            dict(kinds=['norm'], decay_mult=0.0),
        ]
    ),
)
default_hooks = dict(two_stage_end=dict(restart_decay=0.9998))  # 0.9999 in the other sizes
