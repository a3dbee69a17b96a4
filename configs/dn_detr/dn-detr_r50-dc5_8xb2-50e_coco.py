# DN-DETR, R50-DC5: the last stage of the backbone keeps its resolution, four times the tokens.
# Published: 46.3* AP on COCO val2017 after 50 epochs of 16 images.
# * published by the authors; this package has not trained it on COCO.
# Without denoising: --cfg-options model.denoising=None
_base_ = './dn-detr_r50_8xb2-50e_coco.py'

model = dict(backbone=dict(type='DC5ResNet'))
