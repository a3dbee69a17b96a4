# Recipe of RT-DETR (https://arxiv.org/abs/2304.08069), with the values of R50: 72 epochs of 8 x 2
# images, augmented to the end.
_base_ = './rtdetrv2.py'

max_epochs = 72

optim_wrapper = dict(
    paramwise_cfg=dict(
        rules=[
            dict(pattern=r'^backbone\.', lr_mult=0.1),
            dict(kinds=['norm', 'bias'], decay_mult=0.0),
        ]
    )
)
default_hooks = dict(dense_o2o=dict(stages=(0, 0, max_epochs)))
