# DEYO-N on digits in scenes: the recipe of deyo_yolov8-n_8xb2-96e_coco.py, scaled to a set that
# trains on two CPU cores, upon the YOLOv8-N of yolov8_n_digits.py.
# mim train mmdet configs/deyo/deyo_yolov8-n_digits.py --gpus 0 --cfg-options \
#     load_from=work_dirs/yolov8_n_digits/epoch_8.pth
_base_ = [
    '../_base_/models/deyo_n.py',
    '../_base_/datasets/digits_yolov8.py',
    '../_base_/schedules/deyo.py',
]

# epochs, counted from 0
max_epochs = 8
no_mosaic_epochs = 3
mosaic_end = max_epochs - no_mosaic_epochs

model = dict(bbox_head=dict(num_classes=10))

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-3))  # 1e-4 on COCO
default_hooks = dict(
    logger=dict(interval=20),
    channels_last=dict(type='ChannelsLastHook'),
    dense_o2o=dict(stages=(0, mosaic_end, mosaic_end)),
    # a window of 1/20 of the run, 1/8 elsewhere: so short a run changes all the time
    ema=dict(max_window_share=0.05),
)
