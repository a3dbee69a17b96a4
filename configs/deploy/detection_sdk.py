# mmdeploy's SDK in the place of its Python pipeline, for its test: the model is the folder that a
# conversion with --dump-info wrote.
_base_ = './_base_/static.py'

codebase_config = dict(model_type='sdk')
backend_config = dict(
    type='sdk',
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ],
)
