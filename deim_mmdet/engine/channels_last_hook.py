# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Stores convolutions with the channels last, and with them every feature map they make.

    Convolutions then read memory in order, on the CPU and on the tensor cores of a GPU. Results
    are the same up to rounding; names and shapes in the checkpoint stay.

    In the first step of several processes PyTorch warns that "grad strides do not match bucket view
    strides", as the Runner wraps the model before any hook. Then it makes its buckets anew.
    """

    def before_run(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)
