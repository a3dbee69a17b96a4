# YOLOv8-N, trained one-to-many from scratch: the first stage of DEYO (DEYO: DETR with YOLO for
# End-to-End Object Detection, https://arxiv.org/abs/2402.16370).
# 3.16 M parameters, 8.8 GFLOPs at 640 x 640.
# Published: 37.3* AP on COCO val2017 (YOLOv8, Ultralytics 2023); 500 epochs of 8 x 16 images here.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/yolov8/yolov8_n_8xb16-500e_coco.py 8
_base_ = [
    '../_base_/models/yolov8_n.py',
    '../_base_/datasets/coco_yolov8.py',
    '../_base_/schedules/yolov8.py',
]
