# DEYO on a YOLOv8 with half of N's channels, on digits in scenes: the second stage of the demo,
# minutes on two CPU cores. 1,080,348 parameters. AP50 0.747, AP 0.611 on 200 held-out scenes.
# make demo-deyo
# mim train mmdet configs/deyo/deyo_yolov8-atto_digits.py --gpus 0 --cfg-options \
#     load_from=work_dirs/yolov8_atto_digits/epoch_8.pth
_base_ = './deyo_yolov8-n_digits.py'

# epochs, counted from 0
max_epochs = 4
no_mosaic_epochs = 1
mosaic_end = max_epochs - no_mosaic_epochs

model = dict(
    num_queries=60,  # 300 in N; four images of a mosaic have 32 digits at most
    backbone=dict(size=(0.33, 0.125, 1024)),
    neck=dict(in_channels=[32, 64, 128]),
    decoder=dict(embed_dims=64, num_layers=3, num_heads=4, ffn_channels=256, query_pos_dims=(128,)),
    denoising=dict(num_queries=50),
    test_cfg=dict(max_per_img=60),
)

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2e-3))  # 1e-3 in N
default_hooks = dict(dense_o2o=dict(stages=(0, mosaic_end, mosaic_end)))
