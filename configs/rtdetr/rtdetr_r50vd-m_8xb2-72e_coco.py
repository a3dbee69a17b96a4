# RT-DETR-R50-m: 36.6 M parameters, 97 GFLOPs.
# Published: 51.3* AP on COCO val2017 after 72 epochs of 8 x 2 images.
_base_ = './rtdetr_r50vd_8xb2-72e_coco.py'

model = dict(
    neck=dict(expansion=0.5),
    decoder=dict(eval_layer=2),  # of 6, counted from 0
)
