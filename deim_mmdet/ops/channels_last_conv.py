# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Convolution with the channels last whose training is fast on the CPU.

There oneDNN computes the gradient of a dense kernel two to four times as slowly with the channels
last as with the channels first, while everything else is as fast or faster with the channels last.
"""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad


class ChannelsLastConv(torch.autograd.Function):
    """``conv2d`` without bias and groups; the gradient of the weight is taken channels first."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: Tuple[int, ...], padding: Tuple[int, ...]):
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = grad.conv2d_input(x.shape, weight, grad_output, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = grad.conv2d_weight(
                x.contiguous(), weight.shape, grad_output.contiguous(), *ctx.geometry
            )
        return grad_x, grad_weight, None, None


def gains(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether :class:`ChannelsLastConv` is the faster one: float32 on the CPU, in training.

    Args:
        x (Tensor): Shape (bs, C, H, W).
        weight (Tensor): Shape (out_channels, C / groups, kernel height, kernel width).
        groups (int): Of the convolution.
    """
    return (
        x.device.type == 'cpu'
        and groups == 1
        and weight.shape[2:].numel() > 1
        and weight.requires_grad
        and torch.is_grad_enabled()
        and x.dtype == weight.dtype == torch.float32
        and not _is_autocast()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )


def _is_autocast() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # PyTorch < 2.4
        return torch.is_autocast_cpu_enabled()
