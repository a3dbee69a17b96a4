# DEYO-N (DEYO: DETR with YOLO for End-to-End Object Detection, https://arxiv.org/abs/2402.16370): a
# decoder on the frozen backbone and neck of a trained YOLOv8-N.
# 5.4 M parameters, 11 GFLOPs at 640 x 640.
# Published: 39.7* AP on COCO val2017 after 96 epochs of 16 images.
# * published; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/yolov8/yolov8_n_8xb16-500e_coco.py 8
# bash tools/dist_train.sh configs/deyo/deyo_yolov8-n_8xb2-96e_coco.py 8 --cfg-options \
#     load_from=work_dirs/yolov8_n_8xb16-500e_coco/epoch_500.pth
_base_ = [
    '../_base_/models/deyo_n.py',
    '../_base_/datasets/coco_yolov8.py',
    '../_base_/schedules/deyo.py',
]

train_dataloader = dict(batch_size=2)
