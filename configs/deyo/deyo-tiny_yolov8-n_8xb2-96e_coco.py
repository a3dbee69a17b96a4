# DEYO-tiny: 3.8 M parameters, 8 GFLOPs.
# Published: 37.6* AP on COCO val2017 after 96 epochs of 16 images.
_base_ = './deyo_yolov8-n_8xb2-96e_coco.py'

model = dict(
    num_queries=100,  # 300 in N
    decoder=dict(embed_dims=64, query_pos_dims=(128,)),
)
