# COCO as mmdet trains DAB-DETR and Conditional DETR on it, and mmdet's run time.
_base_ = '../../_base_/datasets/coco_multi_scale.py'

# A config that needs modules of its own as well has to repeat ours, since lists are replaced:
# custom_imports = dict(imports=['deim_mmdet', 'my_package'], allow_failed_imports=False)
custom_imports = dict(imports=['deim_mmdet'], allow_failed_imports=False)
default_scope = 'mmdet'

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
