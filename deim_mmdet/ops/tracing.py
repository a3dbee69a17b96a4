# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch

# absent in PyTorch 2.0
is_compiling = getattr(getattr(torch, 'compiler', None), 'is_compiling', lambda: False)


def is_traced() -> bool:
    """Whether a graph is recorded, by ``torch.jit.trace``, an export or ``torch.compile``."""
    return torch.jit.is_tracing() or is_compiling()
