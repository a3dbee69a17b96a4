# The same DEYO trained at once: from scratch, nothing frozen, on as many images as both stages of
# the demo together. What step-by-step training is compared with. AP50 0.893,
# AP 0.749 on 200 held-out scenes.
# mim train mmdet configs/deyo/deyo_yolov8-atto_at-once_digits.py --gpus 0
_base_ = './deyo_yolov8-atto_digits.py'

# epochs, counted from 0: 8 + 4, of which 3 + 1 are without mosaic
max_epochs = 12
no_mosaic_epochs = 4
mosaic_end = max_epochs - no_mosaic_epochs

train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(
    dense_o2o=dict(stages=(0, mosaic_end, mosaic_end)),
    staged_freeze=dict(_delete_=True, type='NoHook'),
)
