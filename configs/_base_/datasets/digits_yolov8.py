# Digits in scenes through the pipeline of YOLOv8, see coco_yolov8.py.
_base_ = './digits_dense_o2o.py'

image_hw = (192, 192)
grey = (114, 114, 114)

train_pipeline = [
    dict(
        type='DenseO2O',
        mosaic=[
            dict(type='Mosaic', img_scale=image_hw[::-1], pad_val=grey[0]),
            dict(
                type='RandomAffine',
                max_rotate_degree=0.0,
                max_translate_ratio=0.1,
                scaling_ratio_range=(0.5, 1.5),
                max_shear_degree=0.0,
                border=(-image_hw[0] // 2, -image_hw[1] // 2),
                border_val=grey,
            ),
        ],
        classic=[],
        mosaic_prob=1.0,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='YOLOXHSVRandomAug'),
    # no flip: a mirrored digit is no digit
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'mix_img_paths'),
    ),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
