# DN-Deformable-DETR, R50: Deformable DETR whose queries are boxes, on four levels, trained with
# denoising queries (https://arxiv.org/abs/2203.01305).
# Published: 49.5* AP on COCO val2017 after 50 epochs of 16 images.
# * published by the authors; this package has not trained it on COCO.
# bash tools/dist_train.sh configs/dn_detr/dn-deformable-detr_r50_8xb2-50e_coco.py 8
# The same without denoising: --cfg-options model.denoising=None
_base_ = [
    '../_base_/models/dn-deformable-detr_r50.py',
    '../_base_/datasets/coco_multi_scale.py',
    '../_base_/schedules/dn_detr.py',
]
