# float16 where it is enough, see docs/deployment.md; for GPUs.
_base_ = './detection_onnxruntime_dynamic.py'

backend_config = dict(precision='fp16')
