# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from contextlib import contextmanager

import torch
from mmdet.registry import OPTIM_WRAPPERS
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast


@OPTIM_WRAPPERS.register_module()
class AnyDeviceAmpOptimWrapper(OptimWrapper):
    """Mixed precision on any device that PyTorch's autocast knows, the CPU included.

    mmengine's ``AmpOptimWrapper`` refuses to be built without a GPU, a limit that PyTorch no longer
    has. On the CPU only bfloat16 exists, and it needs no loss scaling: its exponent has as many
    bits as that of float32. With float16 the gradients are scaled as ``AmpOptimWrapper`` does, and
    the checkpoint holds the state of the scaler under the same key.

    On a processor with bfloat16 instructions (AVX512-BF16, AMX) this saves time; others emulate
    them, and a convolution then takes ten times as long as in float32.

    Args:
        dtype (str): 'bfloat16' or 'float16'. Defaults to 'bfloat16'.
        loss_scale (float): First scale of the gradients in float16. Defaults to 65536.
        **kwargs: Of :class:`mmengine.optim.OptimWrapper`: optimizer, clip_grad, ...

    Raises:
        ValueError: Another dtype, or float16 on the CPU.
    """

    DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}

    def __init__(self, dtype='bfloat16', loss_scale=2.0**16, **kwargs):
        if dtype not in self.DTYPES:
            raise ValueError(f'dtype must be one of {", ".join(self.DTYPES)}, but is {dtype!r}.')
        device = get_device()
        if device == 'cpu' and dtype == 'float16':
            raise ValueError(
                "On the CPU mixed precision means bfloat16, but dtype is 'float16'. "
                "Set optim_wrapper.dtype='bfloat16', or train on a GPU."
            )
        super().__init__(**kwargs)
        self.dtype = self.DTYPES[dtype]
        # A disabled scaler hands everything through.
        self.loss_scaler = _grad_scaler(device, loss_scale, enabled=dtype == 'float16')

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), autocast(dtype=self.dtype):
            yield

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()

    def state_dict(self):
        return {**super().state_dict(), 'loss_scaler': self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        """Loads the optimizer and the scaler.

        The checkpoint of a run without mixed precision has no scaler, one in bfloat16 an empty one:
        both can be continued here in either precision.
        """
        state_dict = dict(state_dict)
        scaler = state_dict.pop('loss_scaler', None)
        if scaler and self.loss_scaler.is_enabled():
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)


def _grad_scaler(device, init_scale, enabled):
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler(device, init_scale=init_scale, enabled=enabled)
    # PyTorch < 2.3 has the scaler of CUDA only; on the CPU it is disabled anyway.
    return torch.cuda.amp.GradScaler(init_scale=init_scale, enabled=enabled)
