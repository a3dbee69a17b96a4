# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DEIM for Hugging Face `transformers`: its D-FINE and RT-DETRv2 with the MLPs of DEIM.

There the small MLPs (box branches, query positions, location quality) have relu built in, and the
query positions one hidden layer; DEIM trains silu and, in RT-DETRv2, two hidden layers. This file
is copied into a folder with such weights, and runs from there without deim_mmdet:

    AutoModelForObjectDetection.from_pretrained(folder, trust_remote_code=True)
"""

from torch import nn
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)
from transformers.activations import ACT2FN

try:
    from transformers import conversion_mapping
except ImportError:  # transformers 4, whose modules are called as in files
    conversion_mapping = None


class DEIMDFineConfig(DFineConfig):
    """Adds ``mlp_activation_function`` and ``query_position_dims``."""

    model_type = 'deim_d_fine'


class DEIMRTDetrV2Config(RTDetrV2Config):
    """Adds ``mlp_activation_function`` and ``query_position_dims``."""

    model_type = 'deim_rt_detr_v2'


class DEIMDFineForObjectDetection(DFineForObjectDetection):
    """D-FINE as DEIM trains it."""

    config_class = DEIMDFineConfig

    def __init__(self, config):
        super().__init__(config)
        use_deim_mlps(self.model, config)


class DEIMRTDetrV2ForObjectDetection(RTDetrV2ForObjectDetection):
    """RT-DETRv2 as DEIM trains it."""

    config_class = DEIMRTDetrV2Config

    def __init__(self, config):
        super().__init__(config)
        use_deim_mlps(self.model, config)


class MLP(nn.Module):
    """Linear layers with an activation between them, none after the last."""

    def __init__(self, layers, activation):
        super().__init__()
        self.layers = layers
        self.activation = ACT2FN[activation]

    def forward(self, x):
        """(..., in channels) -> (..., out channels)."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def use_deim_mlps(model, config):
    """Exchange the small MLPs of a model; their layers keep names and values."""
    activation, decoder = config.mlp_activation_function, model.decoder
    dims = [4, *config.query_position_dims, config.d_model]
    query_layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(dims[:-1], dims[1:]))
    decoder.query_pos_head = MLP(query_layers, activation)
    model.enc_bbox_head = MLP(model.enc_bbox_head.layers, activation)
    for i, head in enumerate(decoder.bbox_embed):
        decoder.bbox_embed[i] = MLP(head.layers, activation)
    if hasattr(decoder, 'lqe_layers'):  # D-FINE
        decoder.pre_bbox_head = MLP(decoder.pre_bbox_head.layers, activation)
        for quality in decoder.lqe_layers:
            quality.reg_conf = MLP(quality.reg_conf.layers, activation)


if conversion_mapping is not None:
    for parent in (DFineConfig, RTDetrV2Config):
        conversion_mapping.register_checkpoint_conversion_mapping(
            f'deim_{parent.model_type}',
            conversion_mapping.get_checkpoint_conversion_mapping(parent.model_type),
            overwrite=True,
        )
