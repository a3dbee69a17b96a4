# DDQ-DETR (2303.12776): DINO whose queries are made distinct by NMS.
_base_ = './dino-4scale_r50.py'

model = dict(
    type='DDQDETR',
    dense_topk_ratio=1.5,  # of num_queries, for the dense queries beside them
    dqs_cfg=dict(type='nms', iou_threshold=0.8),
    bbox_head=dict(type='DDQDETRHead'),
)
