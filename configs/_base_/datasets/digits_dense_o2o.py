# Digits in scenes, built in data/digits on first use, through the Dense O2O pipeline.
data_root = 'data/digits'
image_hw = (192, 192)
digits = dict(num_train=1000, num_val=200, image_hw=image_hw, digit_size=(20, 72))

loading = [
    dict(type='LoadReadableImage', unreadable='stop'),
    dict(type='LoadAnnotations', with_bbox=True),
]
train_pipeline = [
    dict(
        type='DenseO2O',
        mosaic_prob=0.5,
        mosaic=[
            dict(type='DenseMosaic', short_side=image_hw[0] // 2),
            dict(type='PhotometricDistort'),
        ],
        classic=[
            dict(type='PhotometricDistort'),
            dict(type='ZoomOut', side_range=(1, 2)),  # (1, 4) on COCO: digits are small already
            dict(type='MaxIoURandomCrop'),
        ],
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    # no flip: a mirrored digit is no digit
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
    dict(type='Resize', scale=image_hw[::-1], keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        type='MixedImageDataset',
        dataset=dict(
            type='DigitsInScenes',
            data_root=data_root,
            split='train',
            options=digits,
            pipeline=loading,
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='DigitsInScenes',
        data_root=data_root,
        split='val',
        options=digits,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type='CheckedCocoMetric',
    ann_file=data_root + '/annotations/val.json',
    metric='bbox',
    format_only=False,
)
test_evaluator = val_evaluator
