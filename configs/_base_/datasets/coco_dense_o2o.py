# COCO through the Dense O2O pipeline (DEIM, 2412.04234); DenseO2OHook steers its stages.
data_root = 'data/coco/'
image_hw = (640, 640)

loading = [
    dict(type='LoadReadableImage', unreadable='stop'),
    dict(type='LoadAnnotations', with_bbox=True),
]
train_pipeline = [
    dict(type='DenseO2O', mosaic_prob=0.5),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='ContiguousFlip', prob=0.5),
    dict(type='Resize', scale=image_hw[::-1], keep_ratio=False),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'mix_img_paths'),
    ),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='CheckImageFile'),
    # Pillow's filter averages when it makes images smaller, as in the published evaluation
    dict(type='Resize', scale=image_hw[::-1], keep_ratio=False, backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        type='MixedImageDataset',
        dataset=dict(
            type='CheckedCocoDataset',
            data_root=data_root,
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=False),
            pipeline=loading,
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CheckedCocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type='CheckedCocoMetric',
    ann_file=data_root + 'annotations/instances_val2017.json',
    metric='bbox',
    format_only=False,
)
test_evaluator = val_evaluator
