# RT-DETRv2-R18: 20.2 M parameters, 58 GFLOPs.
# Published: 48.1* AP on COCO val2017 after 120 epochs of 8 x 2 images (47.9* in the paper).
_base_ = './rtdetrv2_r50vd_8xb2-72e_coco.py'

# epochs, counted from 0
max_epochs = 120
no_aug_epochs = 3
plain_end = max_epochs - no_aug_epochs

backbone_weights = (
    'https://github.com/lyuwenyu/storage/releases/download/v0.1/'
    'ResNet18_vd_pretrained_from_paddle.pth'
)

model = dict(
    backbone=dict(
        depth=18,
        frozen_stages=-1,  # the stem in R50
        freeze_norm=False,
        init_cfg=dict(checkpoint=backbone_weights),
    ),
    neck=dict(in_channels=[128, 256, 512], expansion=0.5),
    decoder=dict(num_layers=3),
)

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(paramwise_cfg=dict(rules=[dict(kinds=['norm'], decay_mult=0.0)]))
default_hooks = dict(dense_o2o=dict(stages=(0, 0, plain_end)))
