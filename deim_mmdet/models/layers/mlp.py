# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Sequence, Union

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

ACTIVATIONS = {'relu': nn.ReLU, 'silu': nn.SiLU, 'gelu': nn.GELU}


def build_activation(name: str) -> nn.Module:
    """Activation module by its short name: 'relu', 'silu' or 'gelu'."""
    if name not in ACTIVATIONS:
        raise ValueError(f'activation must be one of {sorted(ACTIVATIONS)}, got {name!r}')
    return ACTIVATIONS[name]()


class MLP(BaseModule):
    """Linear layers with an activation between them, none after the last.

    Args:
        in_dims (int): Input channels.
        hidden_dims (int | Sequence[int]): Channels between the layers: the same everywhere, or
            one number for each place.
        out_dims (int): Output channels.
        num_layers (int, optional): Number of linear layers, for a single ``hidden_dims``.
        act (str): Activation: 'relu', 'silu' or 'gelu'.
    """

    def __init__(
        self,
        in_dims: int,
        hidden_dims: Union[int, Sequence[int]],
        out_dims: int,
        num_layers: Optional[int] = None,
        act: str = 'relu',
    ):
        super().__init__()
        if isinstance(hidden_dims, int):
            hidden_dims = [hidden_dims] * (num_layers - 1)
        dims = [in_dims, *hidden_dims, out_dims]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(dims[:-1], dims[1:]))
        self.act = build_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dims) -> (..., out_dims)."""
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)

    def zero_last_layer(self):
        """Start at output 0, so that a refinement begins as the identity."""
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
