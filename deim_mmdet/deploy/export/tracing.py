# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What a trace of a detector would lose or would hold too much of."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DOMAIN, SINGLE = 'deim_mmdet', 'Single'


class MarkSinglePrecision(TorchFunctionMode):
    """While it is active, ``.float()`` of a float tensor leaves a node ``deim_mmdet::Single``.

    The models say where half precision is not enough: ``.float()`` stands before boxes, positions,
    distances and scores are computed. In a trace of the float32 model it does nothing and vanishes.
    From the nodes :mod:`.half` types the half-precision graph.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func == Tensor.float and args[0].is_floating_point():
            return _Single.apply(out)
        return out


class FixSizes(TorchFunctionMode):
    """While it is active, sizes of tensors are numbers, where a trace has symbols.

    Args:
        but_batch (bool): Leave the first dimension a symbol, which is the batch, or a multiple of
            it, in every tensor that depends on the image.
    """

    def __init__(self, but_batch: bool = False) -> None:
        super().__init__()
        self.but_batch = but_batch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func not in (Tensor.shape.__get__, Tensor.size):
            return out
        if not isinstance(out, tuple):  # one side was asked for
            dim = (*args, *(kwargs or {}).values())[1]
            return out if self.but_batch and dim in (0, -args[0].ndim) else int(out)
        sides = tuple(int(side) for side in out)
        return (*out[:1], *sides[1:]) if self.but_batch else sides


class LinspaceOfOne(TorchFunctionMode):
    """While it is active, ``torch.linspace`` of one step is its start; the exporter's divides by
    the number of steps less one.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func != torch.linspace:
            return func(*args, **(kwargs or {}))
        start, end, steps = args
        step = (end - start) / torch.as_tensor(steps - 1).clamp(min=1)
        return start + step * torch.arange(steps, **kwargs)


class _Single(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g, x):
        return g.op(f'{DOMAIN}::{SINGLE}', x).setType(x.type())
