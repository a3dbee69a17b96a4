# DEIM-D-FINE-N on digits in scenes.
# mim train mmdet configs/deim/deim_dfine_hgnetv2-n_digits.py --gpus 0
_base_ = [
    '../_base_/models/deim_dfine_hgnetv2-n.py',
    '../_base_/datasets/digits_dense_o2o.py',
    '../_base_/schedules/deim_digits.py',
]

model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
    bbox_head=dict(num_classes=10),
)
