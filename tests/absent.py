# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A process in which packages are missing that are installed here."""

import subprocess
import sys
from pathlib import Path
from typing import Sequence

HIDE = """
import importlib.abc, importlib.metadata, sys

absent = {absent!r}


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in absent:
            raise ModuleNotFoundError(name, name=name)


def version(name, real=importlib.metadata.version):
    if name in absent:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)


sys.meta_path.insert(0, Refuse())
importlib.metadata.version = version
"""


def run_without(absent: Sequence[str], code: str) -> str:
    """What a program prints that cannot import some packages, nor find their versions.

    Raises:
        AssertionError: It fails; the message is what it says.
    """
    done = subprocess.run(
        [sys.executable, '-c', HIDE.format(absent=sorted(absent)) + code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
