# One image of the size that the test pipeline makes, and what all deploy configs share: mmdeploy
# imports the modules, which make it write the graph of tools/export.py. The second is for programs
# that have imported the first before mmdeploy; custom_imports for processes of mmdeploy that only
# read the config.
custom_imports = dict(imports=['deim_mmdet.deploy.mmdeploy_support'])
codebase_config = dict(
    type='mmdet',
    task='ObjectDetection',
    model_type='end2end',
    module=['deim_mmdet.deploy', 'deim_mmdet.deploy.mmdeploy_support'],
)
onnx_config = dict(
    type='onnx',
    opset_version=17,
    save_file='end2end.onnx',
    input_names=['input'],
    output_names=['dets', 'labels'],
    input_shape=None,  # that of the test pipeline; else (width, height), multiples of 32
)
