# DN-DETR-R50 (2203.01305): DAB-DETR with denoising queries. 43,742,465 parameters.
# model.denoising=None is DAB-DETR.
_base_ = '../../any_detr/_base_/dab-detr_r50.py'

model = dict(
    type='DNDETR',
    denoising=dict(type='DenoisingQueryGenerator', num_groups=5, label_noise=0.2, box_noise=0.4),
    # the mean over the ranks, as published
    bbox_head=dict(type='DNDETRHead', sync_cls_avg_factor=True),
)
