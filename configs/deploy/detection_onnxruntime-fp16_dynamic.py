# float16 where it is enough, see docs/deployment.md; for GPUs.
_base_ = './_base_/dynamic.py'

backend_config = dict(type='onnxruntime', precision='fp16')
