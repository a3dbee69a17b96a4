# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class AnyDeviceDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` that also takes a model on the CPU.

    mmengine's Runner always names the local rank as the device, which PyTorch refuses for a model
    on the CPU. In a config: ``model_wrapper_cfg = dict(type='AnyDeviceDistributedDataParallel')``.
    On GPUs, and with one process, nothing differs from mmengine's default.

    Args:
        module (nn.Module): The model.
        device_ids (list[int], optional): Set by the Runner; dropped where the model is on the CPU.
        broadcast_buffers (bool): Defaults to False, as in mmengine's Runner.
        **kwargs: Of :class:`mmengine.model.MMDistributedDataParallel`. The top-level
            ``find_unused_parameters`` of a config is not read next to ``model_wrapper_cfg``: it
            belongs in here.
    """

    def __init__(self, module, device_ids=None, broadcast_buffers=False, **kwargs):
        if next(module.parameters()).device.type == 'cpu':
            device_ids = None
            module = revert_sync_batchnorm(module)  # it works on GPUs only
        super().__init__(
            module=module, device_ids=device_ids, broadcast_buffers=broadcast_buffers, **kwargs
        )
