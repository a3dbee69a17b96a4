_base_ = './_base_/batch.py'

backend_config = dict(type='onnxruntime')
