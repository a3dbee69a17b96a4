# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Convolution with the channels last whose training is fast on the CPU.

There oneDNN computes the gradient of a dense kernel up to two and a half times as slowly with the
channels last as with the channels first, while everything else is as fast or faster with the
channels last. A matrix product over the windows that the kernel sees, a few rows of an image at a
time, is faster than that, and than turning the tensors to have the channels first.
"""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad

# Values of the windows that are multiplied at once: 4 MiB, so that they stay in the cache.
CHUNK = 1_000_000

# Channels of the input, below which PyTorch's gradient of the kernel is the faster one.
MIN_CHANNELS = 32


class ChannelsLastConv(torch.autograd.Function):
    """``conv2d`` without bias, groups and dilation, with :func:`weight_gradient`.

    Args:
        x (Tensor): Channels last, shape (bs, C, H, W).
        weight (Tensor): Shape (O, C, kernel height, kernel width).
        stride (tuple[int, int]): Vertical and horizontal.
        padding (tuple[int, int]): Zeros above and below, left and right.

    Returns:
        Tensor: Channels last, shape (bs, O, H', W').
    """

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
            grad_weight = weight_gradient(x, weight.shape, grad_output, *ctx.geometry)
        return grad_x, grad_weight, None, None


def weight_gradient(
    x: Tensor,
    weight_shape: torch.Size,
    grad_output: Tensor,
    stride: Tuple[int, int],
    padding: Tuple[int, int],
) -> Tensor:
    """Gradient of the kernel of a ``conv2d`` without groups and dilation.

    Args:
        x (Tensor): Its input, channels last, shape (bs, C, H, W).
        weight_shape (torch.Size): Shape of the kernel, (O, C, kernel height, kernel width).
        grad_output (Tensor): Gradient of its output, shape (bs, O, H', W').
        stride (tuple[int, int]): Vertical and horizontal.
        padding (tuple[int, int]): Zeros above and below, left and right.

    Returns:
        Tensor: The gradient, of shape ``weight_shape``.
    """
    out_channels, channels, kernel_h, kernel_w = weight_shape
    (stride_h, stride_w), (padding_h, padding_w) = stride, padding
    bs, _, out_h, out_w = grad_output.shape
    # (bs, C, H, W) -> (bs, H, W, C), padded
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding_w, padding_w, padding_h, padding_h))
    x = x.contiguous()
    of_image, of_row, of_pixel, _ = x.stride()
    # a view: the pixels of a window that share a row lie one behind the other
    windows = x.as_strided(
        (bs, out_h, out_w, kernel_h, kernel_w * channels),
        (of_image, stride_h * of_row, stride_w * of_pixel, of_row, 1),
    )
    grad_output = grad_output.permute(0, 2, 3, 1)
    gradient = x.new_zeros(kernel_h * kernel_w * channels, out_channels)
    rows = max(1, CHUNK // (out_w * len(gradient)))
    for image_windows, image_gradient in zip(windows, grad_output):
        for some, of_some in zip(image_windows.split(rows), image_gradient.split(rows)):
            matrix = some.reshape(-1, len(gradient))  # a copy: windows overlap
            gradient.addmm_(matrix.t(), of_some.reshape(-1, out_channels))
    # (kernel_h * kernel_w * C, O) -> (O, C, kernel_h, kernel_w)
    return gradient.view(kernel_h, kernel_w, channels, out_channels).permute(3, 2, 0, 1)


def is_faster(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether :class:`ChannelsLastConv` is the faster one: with a kernel that is trained, of more
    than one pixel and at least ``MIN_CHANNELS``, in float32 on the CPU.

    Args:
        x (Tensor): Shape (bs, C, H, W).
        weight (Tensor): Shape (out_channels, C / groups, kernel height, kernel width).
        groups (int): Of the convolution.
    """
    return (
        x.device.type == 'cpu'
        and groups == 1
        and weight.shape[2:].numel() > 1
        and weight.shape[1] >= MIN_CHANNELS
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
