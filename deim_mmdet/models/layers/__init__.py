# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .box_position_mlp import BoxPositionMLP
from .box_query_selection import BoxQuerySelection
from .conv import (
    ConvNormAct,
    FrozenBatchNorm2d,
    LearnableAffine,
    RepVGGBlock,
    fuse_all,
    switch_to_deploy,
)
from .csp_layers import ConvDownsample, CSPRepLayer, RepNCSPELAN4, SeparableDownsample
from .deyo_decoder import DEYODecoder
from .dfine_decoder import DFINEDecoder
from .dfl_box_branch import DFLBoxBranch
from .dn_deformable_decoder import DNDeformableDecoder
from .mlp import MLP
from .prediction_sets import PredictionSets
from .query_selection import QuerySelection
from .rtdetr_decoder import RTDETRDecoder
from .transformer_encoder import SinePositions2D, TransformerEncoder, TransformerEncoderLayer
from .yolov8_layers import SPPF, C2f

__all__ = [
    'MLP',
    'SPPF',
    'BoxPositionMLP',
    'BoxQuerySelection',
    'C2f',
    'CSPRepLayer',
    'ConvDownsample',
    'ConvNormAct',
    'DEYODecoder',
    'DFINEDecoder',
    'DFLBoxBranch',
    'DNDeformableDecoder',
    'FrozenBatchNorm2d',
    'LearnableAffine',
    'PredictionSets',
    'QuerySelection',
    'RTDETRDecoder',
    'RepNCSPELAN4',
    'RepVGGBlock',
    'SeparableDownsample',
    'SinePositions2D',
    'TransformerEncoder',
    'TransformerEncoderLayer',
    'fuse_all',
    'switch_to_deploy',
]
