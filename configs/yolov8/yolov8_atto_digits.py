# YOLOv8 with half of N's channels on digits in scenes: the first stage of the demo, minutes on two
# CPU cores. 913,622 parameters. AP50 0.827, AP 0.677 on 200 held-out scenes after 8 epochs; with
# max_epochs = 12 and no_mosaic_epochs = 4: 0.940, 0.783.
# mim train mmdet configs/yolov8/yolov8_atto_digits.py --gpus 0
_base_ = './yolov8_n_digits.py'

model = dict(
    backbone=dict(size=(0.33, 0.125, 1024)),
    neck=dict(in_channels=[32, 64, 128]),
    bbox_head=dict(in_channels=[32, 64, 128], cls_channels=32),
)
