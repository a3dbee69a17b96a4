# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.registry import HOOKS
from mmengine.hooks import Hook


@HOOKS.register_module()
class NoHook(Hook):
    """Does nothing: takes the place of a hook that a config does not want from its base.

    mmengine accepts None for its own six default hooks only::

        default_hooks = dict(two_stage_end=dict(_delete_=True, type='NoHook'))
    """
