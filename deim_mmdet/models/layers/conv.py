# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Convolution blocks that fold into one plain convolution for deployment."""

from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor

from deim_mmdet.ops.channels_last_conv import ChannelsLastConv, is_faster
from deim_mmdet.ops.tracing import is_compiling


class Conv2d(nn.Conv2d):
    """PyTorch's, which trains faster on the CPU with the channels last, see
    :mod:`deim_mmdet.ops.channels_last_conv`."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        is_plain = (
            bias is None
            and self.dilation == (1, 1)
            and self.padding_mode == 'zeros'
            and not isinstance(self.padding, str)
        )
        if is_plain and not is_compiling() and is_faster(x, weight, self.groups):
            return ChannelsLastConv.apply(x, weight, self.stride, self.padding)
        return super()._conv_forward(x, weight, bias)


class ConvNormAct(nn.Module):
    """Convolution without bias, norm, and optionally an activation with a learned affine.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Side of the kernel.
        stride (int): Stride. Defaults to 1.
        padding (int, optional): Zero padding on each side. Defaults to None: ``(kernel_size - 1)
            // 2``, which keeps the size for odd kernels and pads nothing for 2x2.
        groups (int): Groups of the convolution. Defaults to 1.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict, optional): Activation. Defaults to None: none.
        use_lab (bool): Put a :class:`LearnableAffine` behind the activation. Defaults to False.
    """

    # what published weights call the norm differs between backbones
    norm_name = 'bn'

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: Optional[int] = None,
        groups: int = 1,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: Optional[dict] = None,
        use_lab: bool = False,
    ) -> None:
        super().__init__()
        if padding is None:
            padding = (kernel_size - 1) // 2
        self.conv = Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.add_module(self.norm_name, build_norm_layer(norm_cfg, out_channels)[1])
        self.act = build_activation_layer(act_cfg) if act_cfg else nn.Identity()
        self.lab = LearnableAffine() if use_lab and act_cfg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H / stride, W / stride)."""
        norm = getattr(self, self.norm_name)
        return self.lab(self.act(norm(self.conv(x))))

    def fuse(self) -> None:
        """Fold the norm, and an affine behind a ReLU, into the convolution.

        Does nothing the second time.
        """
        norm = getattr(self, self.norm_name)
        if isinstance(norm, nn.Identity):
            return
        weight, bias = fold_norm(self.conv, norm)
        if isinstance(self.lab, LearnableAffine) and isinstance(self.act, nn.ReLU):
            # scale * relu(x) + shift = max(scale * x + shift, shift), min for a negative scale
            scale, shift = self.lab.scale.item(), self.lab.bias.item()
            weight, bias = weight * scale, bias * scale + shift
            self.act = AtLeast(shift) if scale >= 0 else AtMost(shift)
            self.lab = nn.Identity()
        self.conv = _conv_with(self.conv, weight, bias)
        setattr(self, self.norm_name, nn.Identity())
        work_in_place(self.act)


class RepVGGBlock(nn.Module):
    """Sum of a 3x3 and a 1x1 convolution, each with its norm; one 3x3 convolution once fused.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict, optional): Activation of the sum. Defaults to None: none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__()
        self.conv3x3 = ConvNormAct(in_channels, out_channels, 3, norm_cfg=norm_cfg)
        self.conv1x1 = ConvNormAct(in_channels, out_channels, 1, norm_cfg=norm_cfg)
        self.act = build_activation_layer(act_cfg) if act_cfg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H, W)."""
        if self.conv1x1 is None:
            return self.act(self.conv3x3(x))
        return self.act(self.conv3x3(x) + self.conv1x1(x))

    def fuse(self) -> None:
        """Fold the 1x1 branch and both norms into the 3x3 convolution, which stays alone."""
        if self.conv1x1 is None:
            return
        self.conv3x3.fuse()
        self.conv1x1.fuse()
        conv = self.conv3x3.conv
        weight = conv.weight + F.pad(self.conv1x1.conv.weight, (1, 1, 1, 1))
        self.conv3x3.conv = _conv_with(conv, weight, conv.bias + self.conv1x1.conv.bias)
        self.conv1x1 = None
        work_in_place(self.act)


def work_in_place(act: nn.Module) -> None:
    """Let an activation overwrite its input, where it can; nothing else needs what a fused
    convolution returns."""
    if hasattr(act, 'inplace'):
        act.inplace = True


class LearnableAffine(nn.Module):
    """``scale * x + bias`` with one learned scalar each (LAB of PP-HGNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, unchanged."""
        # NOTE the cast: under autocast a float32 scale would lift every activation to float32
        scale, bias = self.scale.to(x.dtype), self.bias.to(x.dtype)
        is_trained = torch.is_grad_enabled() and scale.requires_grad
        if is_trained and x.dtype == torch.float32 and not is_compiling():
            return ScalarAffine.apply(x, scale, bias)
        return x * scale + bias


class ScalarAffine(torch.autograd.Function):
    """``scale * x + bias``, faster than in two operations.

    The sum is made in place, and the gradient of the scale is a dot product. ``x`` has any shape,
    ``scale`` and ``bias`` have (1, ).
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return (x * scale).add_(bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, scale = ctx.saved_tensors
        # in the order of x in memory both are vectors
        is_channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        order = (0, 2, 3, 1) if is_channels_last else tuple(range(x.dim()))
        vectors = [each.permute(order).reshape(-1) for each in (grad, x)]
        return grad * scale, torch.dot(*vectors).view(1), grad.sum().view(1)


class AtLeast(nn.Module):
    """``max(x, limit)``, in place.

    Args:
        limit (float): The smallest value.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, unchanged."""
        return x.clamp_(min=self.limit)

    def extra_repr(self) -> str:
        return f'{self.limit:g}'


class AtMost(AtLeast):
    """``min(x, limit)``, in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, unchanged."""
        return x.clamp_(max=self.limit)


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine: only buffers, nothing to train or to sync.

    Args:
        num_features (int): Channels.
        eps (float): Added to the variance. Defaults to 1e-5.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer('weight', torch.ones(num_features))
        self.register_buffer('bias', torch.zeros(num_features))
        self.register_buffer('running_mean', torch.zeros(num_features))
        self.register_buffer('running_var', torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """(bs, num_features, H, W), unchanged in shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def extra_repr(self) -> str:
        return f'{self.num_features}, eps={self.eps}'

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # a trainable norm also counts its batches; weights of either kind load into this one
        state_dict.pop(f'{prefix}num_batches_tracked', None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @classmethod
    def replace_in(cls, module: nn.Module) -> None:
        """Replace every batch norm below ``module``, keeping its values."""
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                frozen = cls(child.num_features, child.eps)
                frozen.load_state_dict(child.state_dict())
                setattr(module, name, frozen)
            else:
                cls.replace_in(child)


def switch_to_deploy(model: nn.Module, fold_all_norms: bool = False) -> nn.Module:
    """Turn a trained model into its deploy form, in place.

    Every module with a ``switch_to_deploy()`` of its own, ``model`` included, is told to use it;
    the outputs in evaluation mode stay the same up to rounding (1e-4).

    Args:
        model (nn.Module): The model. It can be evaluated and exported afterwards, and neither
            trained nor given train-form weights any more.
        fold_all_norms (bool): Also fold the norms that the published deploy form keeps (backbone
            and input projections). ONNX exporters fold these by themselves; in plain PyTorch
            folding saves their time. Defaults to False, the published form and parameter count.

    Returns:
        nn.Module: The same model, in evaluation mode.
    """
    model.eval()
    for module in list(model.modules()):
        if hasattr(module, 'switch_to_deploy'):
            module.switch_to_deploy()
    if fold_all_norms:
        fuse_all(model)
    return model


def fuse_all(*modules: nn.Module) -> None:
    """Fuse every block of this file that is found in ``modules``."""
    for root in modules:
        for module in list(root.modules()):
            if isinstance(module, (ConvNormAct, RepVGGBlock)):
                module.fuse()


@torch.no_grad()
def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> Tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals ``norm(conv(x))`` in evaluation mode.

    Args:
        conv (nn.Conv2d): The convolution.
        norm (nn.Module): Batch norm (ordinary, synchronised or frozen) behind it.

    Returns:
        tuple[Tensor, Tensor]: Weight, shape as ``conv.weight``, and bias, shape (out_channels, ).
    """
    # in double precision: the variance of a dead channel is tiny, its scale is large
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    if conv.bias is not None:
        bias = bias + conv.bias.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _conv_with(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution like ``conv`` with other values and a bias."""
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        device='meta',
    )
    fused.weight = nn.Parameter(weight.detach(), requires_grad=conv.weight.requires_grad)
    fused.bias = nn.Parameter(bias.detach(), requires_grad=conv.weight.requires_grad)
    return fused.train(conv.training)
