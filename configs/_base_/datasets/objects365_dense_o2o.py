# Objects365 v2 through the Dense O2O pipeline, in the folders that mmdet expects.
# The config that uses this file also needs
#     model = dict(bbox_head=dict(num_classes=_base_.num_classes))
_base_ = './coco_dense_o2o.py'

num_classes = 365
data_root = 'data/Objects365/Obj365_v2/'
train_files = dict(ann_file='annotations/zhiyuan_objv2_train.json', data_prefix=dict(img='train/'))
val_files = dict(ann_file='annotations/zhiyuan_objv2_val.json', data_prefix=dict(img='val/'))

# mmdet's data set shortens the paths of the annotation files to patch*/*.jpg and knows which images
# are missing
dataset_type = 'Objects365V2Dataset'
train_dataloader = dict(
    dataset=dict(dataset=dict(type=dataset_type, data_root=data_root, **train_files)),
)
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, **val_files))
test_dataloader = val_dataloader

# numbers the classes as that data set does
val_evaluator = dict(type='CocoMetric', ann_file=data_root + val_files['ann_file'])
test_evaluator = val_evaluator
