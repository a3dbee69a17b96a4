# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Sequence

import torch

from deim_mmdet.machine import Machine, versions

SHOWN = ('python', 'torch', 'mmcv', 'mmcv-lite', 'mmengine', 'mmdet', 'transformers')


def print_conditions(*lines: str) -> None:
    """What was measured, where, and with which versions."""
    found = versions()
    print(*lines, sep='\n')
    print(f'{Machine.here()}; {torch.get_num_threads()} threads')
    print(', '.join(f'{name} {found[name]}' for name in SHOWN if name in found))


def print_table(*rows: Sequence[str]) -> None:
    """A table in Markdown, heading first."""
    for row in (rows[0], ['---'] * len(rows[0]), *rows[1:]):
        print(f'| {" | ".join(row)} |')


def milliseconds(seconds: float) -> str:
    return f'{1000 * seconds:.1f}'


def mib(number: int) -> str:
    return f'{number / 2**20:,.0f}'
