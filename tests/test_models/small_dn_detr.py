# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The four detectors that train with denoising queries, small enough for a test."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

CONFIGS = Path(__file__).parents[2] / 'configs'
# detector: config of the model that it is, or that it is plugged into
CONFIG_OF = {
    'DNDETR': '_base_/models/dn-detr_r50.py',
    'DNDeformableDETR': '_base_/models/dn-deformable-detr_r50.py',
    'DenoisingConditionalDETR': 'any_detr/_base_/conditional-detr_r50.py',
    'DenoisingDeformableDETR': 'any_detr/_base_/deformable-detr_r50.py',
}


def small_model(kind: str) -> ConfigDict:
    """The model of the config, with the three lines of the plug-in where it is mmdet's.

    With a ResNet-18 of a quarter of the width, three layers, twenty queries and ten classes.
    """
    model = Config.fromfile(CONFIGS / CONFIG_OF[kind]).model
    model.update(
        type=kind,
        denoising=dict(
            type='DenoisingQueryGenerator', num_groups=5, label_noise=0.2, box_noise=0.4
        ),
    )
    model.bbox_head.update(type=f'{kind}Head', num_classes=10)
    model.backbone.update(
        dict(depth=18, base_channels=16, stem_channels=16, frozen_stages=-1, init_cfg=None)
    )
    model.neck.in_channels = [16 * 2**level for level in model.backbone.out_indices]
    model.encoder.num_layers, model.decoder.num_layers = 1, 2
    model.num_queries = 20
    model.test_cfg.max_per_img = 20
    return model
