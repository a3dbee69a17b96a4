_base_ = './_base_/static.py'

backend_config = dict(type='onnxruntime')
