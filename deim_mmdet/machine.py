# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What measured times depend on: the machine, its clocks, the versions. Standard library alone."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from deim_mmdet.version import __version__

CPUINFO = Path('/proc/cpuinfo')
GOVERNOR = Path('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor')
DISTRIBUTIONS = (
    'numpy', 'torch', 'mmcv', 'mmcv-lite', 'mmengine', 'mmdet', 'onnx', 'onnxruntime',
    'onnxruntime-gpu', 'openvino', 'tensorrt', 'tensorrt-rtx', 'tensorrt_rtx_cu12_bindings',
    'transformers',
)  # fmt: skip
# Clocks that differ by less are the same.
CLOCK_MARGIN = 0.01


@dataclass(frozen=True)
class Machine:
    """What two measurements must share to be compared. Two machines of a kind are equal by it.

    Attributes:
        cpu (str): Name, family, model and stepping; virtual machines share names.
        cores (int): Cores that the process may use.
        gpus (tuple[str]): Names of the GPUs.
        system (str): As 'Linux x86_64'.
    """

    cpu: str
    cores: int
    gpus: Tuple[str, ...]
    system: str

    @classmethod
    def here(cls) -> 'Machine':
        gpus = tuple(gpu['name'] for gpu in query_gpus('name'))
        return cls(cpu_name(), usable_cores(), gpus, f'{platform.system()} {platform.machine()}')

    @classmethod
    def from_dict(cls, values: dict) -> 'Machine':
        return cls(**dict(values, gpus=tuple(values['gpus'])))

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        return f'{self.cpu}, {self.cores} cores, {", ".join(self.gpus) or "no GPU"}, {self.system}'


def cpu_name() -> str:
    try:
        text = CPUINFO.read_text()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r'^([\w ]+?)\s*: (.*)$', text.split('\n\n')[0], re.MULTILINE))
    keys = [key for key in ('cpu family', 'model', 'stepping') if key in fields]
    numbers = [f'{key} {fields[key]}' for key in keys]
    name = fields.get('model name') or platform.machine()
    return f'{name} ({", ".join(numbers)})' if numbers else name


def usable_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def condition() -> dict:
    """What may change while something is measured; entries that cannot be read are left out.

    Returns:
        dict: ``load``: programs that ran or waited for a core during the last minute;
        ``governor`` of the CPU; ``cpu_mhz``, mean of the cores; ``gpus``: of each its clocks
        ``sm`` and ``memory``, the highest it has, ``sm_max``, in MHz, and its ``temperature``.
    """
    found = {}
    if hasattr(os, 'getloadavg'):
        found['load'] = round(os.getloadavg()[0], 2)
    if GOVERNOR.is_file():
        found['governor'] = GOVERNOR.read_text().strip()
    try:
        clocks = re.findall(r'^cpu MHz\s*: ([\d.]+)$', CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        clocks = []
    if clocks:
        found['cpu_mhz'] = round(sum(map(float, clocks)) / len(clocks))
    names = ('sm', 'memory', 'sm_max', 'temperature')
    fields = ('clocks.sm', 'clocks.mem', 'clocks.max.sm', 'temperature.gpu')
    gpus = [
        {name: _number(gpu[field]) for name, field in zip(names, fields)}
        for gpu in query_gpus(*fields)
    ]
    if gpus:
        found['gpus'] = gpus
    return found


def warnings_of(before: dict, after: dict, cores: int) -> List[str]:
    """What speaks against a measurement between two :func:`condition`; empty if nothing does."""
    found = []
    if before.get('load', 0) > cores / 2:
        found.append(
            f'other programs ran before: the load was {before["load"]:g} on {cores} cores. Times '
            'are too long; ratios of this run suffer less'
        )
    if before.get('governor') not in (None, 'performance'):
        found.append(
            f'the CPU governor is {before["governor"]}: cpupower frequency-set -g performance'
        )
    for index, (old, new) in enumerate(zip(before.get('gpus', ()), after.get('gpus', ()))):
        clocks = [old.get('sm'), new.get('sm')]
        if None in clocks:
            found.append(f'the clock of GPU {index} cannot be read: it may not be locked')
        elif abs(clocks[0] - clocks[1]) > CLOCK_MARGIN * max(clocks):
            found.append(
                f'the clock of GPU {index} is not locked, it went from {clocks[0]:g} to '
                f'{clocks[1]:g} MHz: nvidia-smi -i {index} --lock-gpu-clocks=MHZ'
            )
    return found


def versions() -> Dict[str, str]:
    """Of Python, of the packages that are installed, and of the GPU's driver."""
    found = dict(python=platform.python_version(), deim_mmdet=__version__)
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    drivers = {gpu['driver_version'] for gpu in query_gpus('driver_version')}
    if drivers:
        found['NVIDIA driver'] = ', '.join(sorted(drivers))
    return found


def query_gpus(*fields: str) -> List[Dict[str, str]]:
    """What nvidia-smi says of each NVIDIA GPU; none if there is no nvidia-smi or no GPU."""
    program = shutil.which('nvidia-smi')
    if program is None:
        return []
    command = [program, f'--query-gpu={",".join(fields)}', '--format=csv,noheader,nounits']
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that is not loaded, for example
        return []
    rows = [[cell.strip() for cell in line.split(',')] for line in out.splitlines() if line.strip()]
    return [dict(zip(fields, row)) for row in rows if len(row) == len(fields)]


def _number(text: str) -> Optional[float]:
    """None for '[N/A]' and the like."""
    try:
        return float(text)
    except ValueError:
        return None
