# DEIM-RT-DETRv2-R50-m: 33.2 M parameters, 97 GFLOPs.
# Published: 53.2* AP on COCO val2017 after 60 epochs of 8 x 2 images (RT-DETRv2: 51.9*).
_base_ = './deim_rtdetrv2_r50vd_8xb2-60e_coco.py'

model = dict(
    neck=dict(expansion=0.5),
    decoder=dict(num_layers=3),
)
