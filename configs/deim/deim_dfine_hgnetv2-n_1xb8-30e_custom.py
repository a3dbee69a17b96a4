# DEIM-D-FINE-N (DEIM, https://arxiv.org/abs/2412.04234), fine-tuned on own data in COCO format.
# Put classes and paths here, or let the tool do it, which also checks the data:
# python tools/train_custom.py TRAIN.json VAL.json IMAGES --load-from CHECKPOINT
_base_ = [
    '../_base_/models/deim_dfine_hgnetv2-n.py',
    '../_base_/datasets/custom_dense_o2o.py',
    '../_base_/schedules/finetune.py',
]

# the file as DEIM publishes it, or one of ours; classes are matched by name
load_from = 'checkpoints/deim_dfine_hgnetv2_n_coco_160e.pth'

train_dataloader = dict(batch_size=8)

model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
    bbox_head=dict(num_classes=_base_.num_classes),
)
