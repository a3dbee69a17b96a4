# CrowdHuman (whole bodies) through the Dense O2O pipeline, evaluated by COCO AP.
# mmdet's tools/dataset_converters/crowdhuman2coco.py -i data/crowdhuman -o
# data/crowdhuman/annotations writes the annotation files.
# The config that uses this file also needs
#     model = dict(bbox_head=dict(num_classes=_base_.num_classes))
# and, for AP, MR and JI as the benchmark defines them,
#     test_dataloader = dict(dataset=dict(_delete_=True, **_base_.odgt_dataset))
#     test_evaluator = dict(_delete_=True, **_base_.odgt_evaluator)
_base_ = './coco_dense_o2o.py'

num_classes = 1
metainfo = dict(classes=('pedestrian',))  # the converter's name
data_root = 'data/crowdhuman/'
train_files = dict(ann_file='annotations/crowdhuman_train.json', data_prefix=dict(img='train/'))
val_files = dict(ann_file='annotations/crowdhuman_val.json', data_prefix=dict(img='val/'))

train_dataloader = dict(
    dataset=dict(dataset=dict(metainfo=metainfo, data_root=data_root, **train_files)),
)
val_dataloader = dict(dataset=dict(metainfo=metainfo, data_root=data_root, **val_files))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + val_files['ann_file'])
test_evaluator = val_evaluator

odgt_dataset = dict(
    type='CrowdHumanDataset',
    data_root=data_root,
    ann_file='annotation_val.odgt',
    data_prefix=dict(img='val/Images/'),
    test_mode=True,
    pipeline=_base_.test_pipeline,
)
odgt_evaluator = dict(
    type='CrowdHumanMetric',
    ann_file=data_root + 'annotation_val.odgt',
    metric=['AP', 'MR', 'JI'],
)
