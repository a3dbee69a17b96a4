# COCO through the pipeline of YOLOv8: mosaic, affine, HSV, flip. The mosaic ends before the run
# does: DenseO2O stands around it for that alone, steered by DenseO2OHook.
_base_ = './coco_dense_o2o.py'

image_hw = (640, 640)
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
                border=(-image_hw[0] // 2, -image_hw[1] // 2),  # a mosaic is twice as wide and high
                border_val=grey,
            ),
        ],
        classic=[],
        mosaic_prob=1.0,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='ContiguousFlip', prob=0.5),
    # a mosaic has this size already
    dict(type='Resize', scale=image_hw[::-1], keep_ratio=True),
    dict(type='Pad', size=image_hw[::-1], pad_val=dict(img=grey)),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'mix_img_paths'),
    ),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='CheckImageFile'),
    dict(type='Resize', scale=image_hw[::-1], keep_ratio=True),
    dict(type='Pad', size=image_hw[::-1], pad_val=dict(img=grey)),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
