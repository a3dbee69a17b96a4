_base_ = ['./_base_/batch.py', './_base_/tensorrt.py']

backend_config = dict(
    model_inputs=[dict(input_shapes=dict(input=dict(
        min_shape=[1, 3, 640, 640], opt_shape=[1, 3, 640, 640], max_shape=[16, 3, 640, 640]
    )))]
)  # fmt: skip
