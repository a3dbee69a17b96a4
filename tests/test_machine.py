# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deim_mmdet import machine
from deim_mmdet.machine import Machine, condition, query_gpus, versions, warnings_of

ROOT = Path(__file__).parents[1]
VALUES = {
    'name': 'Tesla T4',
    'driver_version': '550.54.15',
    'clocks.sm': '585',
    'clocks.mem': '5001',
    'clocks.max.sm': '1590',
    'temperature.gpu': '[N/A]',
}


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """A program that answers as nvidia-smi does, for two GPUs."""
    program = tmp_path / 'nvidia-smi'
    program.write_text(
        f'#!{sys.executable}\n'
        'import sys\n'
        f'values = {VALUES!r}\n'
        "assert '--format=csv,noheader,nounits' in sys.argv\n"
        "fields = sys.argv[1].removeprefix('--query-gpu=').split(',')\n"
        "print(*[', '.join(values[field] for field in fields)] * 2, sep='\\n')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    return program


def test_gpus(nvidia_smi):
    assert Machine.here().gpus == ('Tesla T4', 'Tesla T4')
    assert versions()['NVIDIA driver'] == '550.54.15'
    gpu = dict(sm=585.0, memory=5001.0, sm_max=1590.0, temperature=None)
    assert condition()['gpus'] == [gpu, gpu]


@pytest.mark.parametrize('text', ['exit 9', 'echo No devices were found; exit 6'])
def test_no_gpu(nvidia_smi, text):
    nvidia_smi.write_text(f'#!/bin/sh\n{text}\n')
    assert query_gpus('name', 'driver_version') == []
    assert 'gpus' not in condition() and 'NVIDIA driver' not in versions()


def test_no_nvidia_smi(monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert query_gpus('name') == []


def test_cpu_of_a_virtual_machine_has_numbers(monkeypatch, tmp_path):
    core = (
        'cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 1\ncpu MHz\t\t: {}\n'
    )
    file = tmp_path / 'cpuinfo'
    file.write_text(core.format('2400.000') + '\n' + core.format('2600.000') + '\n')
    monkeypatch.setattr(machine, 'CPUINFO', file)
    assert machine.cpu_name() == 'AMD EPYC (cpu family 25, model 1, stepping 1)'
    assert condition()['cpu_mhz'] == 2500


def test_governor_and_missing_files(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, 'CPUINFO', tmp_path / 'missing')
    monkeypatch.setattr(machine, 'GOVERNOR', tmp_path / 'governor')
    assert machine.cpu_name()
    assert not {'governor', 'cpu_mhz'} & set(condition())
    (tmp_path / 'governor').write_text('powersave\n')
    assert condition()['governor'] == 'powersave'


def test_a_machine_survives_json():
    here = Machine.here()
    assert Machine.from_dict(here.to_dict()) == here
    assert here.cores >= 1 and str(here.cores) in str(here)


# before, after, word of the warning
# fmt: off
CONDITIONS = [
    ({},                             {},                             None),
    (dict(load=0.9),                 {},                             None),
    (dict(load=1.1),                 {},                             'load was 1.1 on 2 cores'),
    (dict(governor='performance'),   {},                             None),
    (dict(governor='powersave'),     {},                             'governor is powersave'),
    (dict(gpus=[dict(sm=1590.)]),    dict(gpus=[dict(sm=1590.)]),    None),
    (dict(gpus=[dict(sm=1590.)]),    dict(gpus=[dict(sm=1575.)]),    None),  # within 1 %
    (dict(gpus=[dict(sm=300.)]),     dict(gpus=[dict(sm=1590.)]),    'from 300 to 1590 MHz'),
    (dict(gpus=[dict(sm=None)]),     dict(gpus=[dict(sm=1590.)]),    'cannot be read'),
]
# fmt: on


@pytest.mark.parametrize(('before', 'after', 'word'), CONDITIONS)
def test_warnings(before, after, word):
    found = warnings_of(before, after, cores=2)
    assert len(found) == (word is not None)
    if word:
        assert word in found[0]


def test_needs_the_standard_library_alone():
    code = (
        'import sys, types\n'
        "package = types.ModuleType('deim_mmdet'); package.__path__ = ['deim_mmdet']\n"
        "sys.modules['deim_mmdet'] = package\n"
        'import deim_mmdet.machine as m; m.Machine.here(); m.versions()\n'
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
