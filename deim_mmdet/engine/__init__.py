# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .any_device_amp import AnyDeviceAmpOptimWrapper
from .any_device_ddp import AnyDeviceDistributedDataParallel
from .channels_last_hook import ChannelsLastHook
from .compile_hook import CompileHook
from .dense_o2o_hook import DenseO2OHook
from .flat_cosine_lr import FlatCosineLR
from .fused_evaluation_hook import FusedEvaluationHook
from .linear_warmup_lr import LinearWarmupLR
from .load_weights_hook import LoadWeightsHook
from .matching_stability_hook import MatchingStabilityHook
from .no_hook import NoHook
from .non_finite_loss_hook import NonFiniteLossHook
from .progress_hook import RichProgressHook
from .rule_optim_wrapper_constructor import RuleOptimWrapperConstructor
from .same_conditions_hook import SameConditionsHook
from .staged_freeze_hook import StagedFreezeHook
from .two_stage_end_hook import TwoStageEndHook
from .warmup_ema import WarmupEMA
from .warmup_ema_hook import WarmupEMAHook

__all__ = [
    'AnyDeviceAmpOptimWrapper',
    'AnyDeviceDistributedDataParallel',
    'ChannelsLastHook',
    'CompileHook',
    'DenseO2OHook',
    'FlatCosineLR',
    'FusedEvaluationHook',
    'LinearWarmupLR',
    'LoadWeightsHook',
    'MatchingStabilityHook',
    'NoHook',
    'NonFiniteLossHook',
    'RichProgressHook',
    'RuleOptimWrapperConstructor',
    'SameConditionsHook',
    'StagedFreezeHook',
    'TwoStageEndHook',
    'WarmupEMA',
    'WarmupEMAHook',
]
