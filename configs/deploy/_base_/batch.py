# Any number of images of the size that the test pipeline makes.
_base_ = './static.py'

onnx_config = dict(dynamic_axes=dict(input={0: 'batch'}, dets={0: 'batch'}, labels={0: 'batch'}))
