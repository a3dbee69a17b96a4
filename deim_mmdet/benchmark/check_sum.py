# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import zlib
from typing import Iterable

from torch import Tensor


def check_sum(tensors: Iterable[Tensor]) -> int:
    """CRC-32 of the values of tensors, one after the other: equal for equal bits, on any device."""
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes(), crc)
    return crc
