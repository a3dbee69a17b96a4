# Pascal VOC through the Dense O2O pipeline: trained on trainval of 2007 and 2012, evaluated on test
# of 2007.
# The config that uses this file also needs
#     model = dict(bbox_head=dict(num_classes=_base_.num_classes))
#     default_hooks = dict(
#         checkpoint=dict(save_best=_base_.main_metric),
#         two_stage_end=dict(metric=_base_.main_metric))
_base_ = './coco_dense_o2o.py'

num_classes = 20
main_metric = 'pascal_voc/mAP'
data_root = 'data/VOCdevkit/'
voc2007 = dict(type='VOCDataset', data_root=data_root, data_prefix=dict(sub_data_root='VOC2007/'))
voc2012 = dict(type='VOCDataset', data_root=data_root, data_prefix=dict(sub_data_root='VOC2012/'))
trainval = 'ImageSets/Main/trainval.txt'

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type='ConcatDataset',
            ignore_keys=['dataset_type'],  # the year, in which the two differ
            datasets=[
                dict(ann_file=f'VOC2007/{trainval}', pipeline=_base_.loading, **voc2007),
                dict(ann_file=f'VOC2012/{trainval}', pipeline=_base_.loading, **voc2012),
            ],
        ),
    ),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        test_mode=True,
        pipeline=_base_.test_pipeline,
        **voc2007,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='11points')
test_evaluator = val_evaluator
