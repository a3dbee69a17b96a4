# A config that needs modules of its own as well has to repeat ours, since lists are replaced:
# custom_imports = dict(imports=['deim_mmdet', 'my_package'], allow_failed_imports=False)
custom_imports = dict(imports=['deim_mmdet'], allow_failed_imports=False)
default_scope = 'mmdet'

# mmengine registers every entry; named entries, unlike a list, can be changed one by one, and
# switched off: two_stage_end=dict(_delete_=True, type='NoHook')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3, save_best='coco/bbox_mAP'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    load_weights=dict(type='LoadWeightsHook'),
    check_classes=dict(type='CheckClassesHook'),
    unreadable_images=dict(type='UnreadableImagesHook'),
    non_finite_loss=dict(type='NonFiniteLossHook'),
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

# one process or GPUs: as usual; several processes on the CPU work, too
# (find_unused_parameters belongs in this dict)
model_wrapper_cfg = dict(type='AnyDeviceDistributedDataParallel')

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
