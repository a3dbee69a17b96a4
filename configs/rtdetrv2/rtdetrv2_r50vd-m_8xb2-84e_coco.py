# RT-DETRv2-R50-m: 36.6 M parameters, 97 GFLOPs.
# Published: 51.9* AP on COCO val2017 after 84 epochs of 8 x 2 images.
_base_ = './rtdetrv2_r50vd_8xb2-72e_coco.py'

# epochs, counted from 0
max_epochs = 84
no_aug_epochs = 3
plain_end = max_epochs - no_aug_epochs

model = dict(
    neck=dict(expansion=0.5),
    decoder=dict(eval_layer=2),  # of 6, counted from 0
)

train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(dense_o2o=dict(stages=(0, 0, plain_end)))
