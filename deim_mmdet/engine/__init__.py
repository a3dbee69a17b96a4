# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .any_device_amp import AnyDeviceAmpOptimWrapper
from .any_device_ddp import AnyDeviceDistributedDataParallel
from .compile_hook import CompileHook

__all__ = ['AnyDeviceAmpOptimWrapper', 'AnyDeviceDistributedDataParallel', 'CompileHook']
