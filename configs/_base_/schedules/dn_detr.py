# Recipe of DN-DETR (https://arxiv.org/abs/2203.01305): 50 epochs of 8 x 2 images, a tenth of the
# learning rate for the last ten.
_base_ = '../default_runtime.py'

# epochs, counted from 0
max_epochs = 50
lr_drop = 40

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='RuleOptimWrapperConstructor',
    paramwise_cfg=dict(rules=[dict(pattern=r'^backbone\.', lr_mult=0.1)]),
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[lr_drop], gamma=0.1)
auto_scale_lr = dict(enable=False, base_batch_size=16)

env_cfg = dict(cudnn_benchmark=False)  # every batch has another size
