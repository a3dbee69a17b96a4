# Any number of images of any size that is a multiple of 32.
_base_ = './static.py'

onnx_config = dict(
    dynamic_axes=dict(
        input={0: 'batch', 2: 'height', 3: 'width'}, dets={0: 'batch'}, labels={0: 'batch'}
    )
)
