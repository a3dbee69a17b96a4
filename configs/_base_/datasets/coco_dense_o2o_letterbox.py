# COCO through the Dense O2O pipeline, its images as YOLOv8 takes them: they keep their aspect and
# are padded with grey. Features that stay frozen have seen nothing else.
_base_ = './coco_yolov8.py'

image_hw = (640, 640)
grey = (114, 114, 114)

train_pipeline = [
    dict(type='DenseO2O', mosaic_prob=0.5),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='ContiguousFlip', prob=0.5),
    dict(type='Resize', scale=image_hw[::-1], keep_ratio=True),
    dict(type='Pad', size=image_hw[::-1], pad_val=dict(img=grey)),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'mix_img_paths'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
