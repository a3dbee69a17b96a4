# Your own COCO-format data through the Dense O2O pipeline: set the classes and paths (in a copy).
# The config that uses this file also needs
#     model = dict(bbox_head=dict(num_classes=_base_.num_classes))
# `python tools/check_dataset.py CONFIG` then finds what is wrong with the files.
_base_ = './coco_dense_o2o.py'

classes = ('first class', 'second class')  # as the annotation files spell them; label 0, 1, ...
data_root = 'data/custom/'
train_files = dict(ann_file='annotations/train.json', data_prefix=dict(img='train/'))
val_files = dict(ann_file='annotations/val.json', data_prefix=dict(img='val/'))

num_classes = len(classes)
metainfo = dict(classes=classes)
train_dataloader = dict(
    dataset=dict(dataset=dict(metainfo=metainfo, data_root=data_root, **train_files)),
)
val_dataloader = dict(dataset=dict(metainfo=metainfo, data_root=data_root, **val_files))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + val_files['ann_file'])
test_evaluator = val_evaluator
