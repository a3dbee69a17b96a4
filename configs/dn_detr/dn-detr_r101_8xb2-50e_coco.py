# DN-DETR, R101; not in the authors' model zoo.
# Without denoising: --cfg-options model.denoising=None
_base_ = './dn-detr_r50_8xb2-50e_coco.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    )
)
