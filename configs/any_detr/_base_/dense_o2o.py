# Dense O2O (DEIM, 2412.04234) for detectors that train on short sides of 480 to 800 pixels.
# The configs with deim_ in their name put these lists around the data set of their base.
dense_o2o_pipeline = [
    dict(
        type='DenseO2O',
        mosaic_prob=0.5,
        mosaic=[
            # half of the largest short side, as 320 is of 640 in DEIM
            dict(type='DenseMosaic', short_side=400),
            dict(type='PhotometricDistort'),
        ],
    ),
    dict(type='RandomFlip', prob=0.5),
    # The base crops every second image. Here the IoU crop of DenseO2O takes its place: a crop would
    # take objects out of mosaics, and the plain stages are meant to be plain.
    dict(
        type='RandomChoiceResize',
        scales=[(short_side, 1333) for short_side in range(480, 801, 32)],
        keep_ratio=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
            'mix_img_paths',
        ),
    ),
]
