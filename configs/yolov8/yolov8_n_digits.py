# YOLOv8-N on digits in scenes: the recipe of yolov8_n_8xb16-500e_coco.py, scaled to a set that
# trains on two CPU cores.
# mim train mmdet configs/yolov8/yolov8_n_digits.py --gpus 0
_base_ = [
    '../_base_/models/yolov8_n.py',
    '../_base_/datasets/digits_yolov8.py',
    '../_base_/schedules/yolov8.py',
]

# epochs, counted from 0
max_epochs = 8
no_mosaic_epochs = 3
mosaic_end = max_epochs - no_mosaic_epochs

model = dict(bbox_head=dict(num_classes=10, cls_channels=64))

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(type='OptimWrapper')
default_hooks = dict(
    logger=dict(interval=20),
    channels_last=dict(type='ChannelsLastHook'),
    dense_o2o=dict(stages=(0, mosaic_end, mosaic_end)),
    # a window of 1/20 of the run, 1/8 elsewhere: so short a run changes all the time
    ema=dict(max_window_share=0.05),
)
