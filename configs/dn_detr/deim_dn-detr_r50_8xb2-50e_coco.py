# DN-DETR, R50, trained the DEIM way: MAL and Dense O2O (https://arxiv.org/abs/2412.04234).
# Nothing published, and not trained on COCO by this package.
# bash tools/dist_train.sh configs/dn_detr/deim_dn-detr_r50_8xb2-50e_coco.py 8
# Without denoising: --cfg-options model.denoising=None
_base_ = ['./dn-detr_r50_8xb2-50e_coco.py', '../any_detr/_base_/dense_o2o.py']

model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchMixUp', prob=0.5)]),
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
    ),
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MixedImageDataset',
        dataset={**_base_.train_dataloader.dataset, 'pipeline': _base_.loading},
        pipeline=_base_.dense_o2o_pipeline,
    )
)
# epochs, counted from 0: mosaic and MixUp, classic augmentation, none
default_hooks = dict(dense_o2o=dict(type='DenseO2OHook', stages=(4, 29, 48)))
