# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def locked(path: Union[str, os.PathLike]) -> Iterator[None]:
    """Let one process at a time do something, while others wait.

    A process that ends, however it does, lets the next one in.

    Args:
        path (str | PathLike): File that stands for it; it is made, and stays.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'ab') as file:
        _acquire(file)
        try:
            yield
        finally:
            _release(file)


def _acquire(file) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    import msvcrt

    while True:
        try:
            file.seek(0)
            return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            time.sleep(0.5)


def _release(file) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_UN)
        return
    import msvcrt

    file.seek(0)
    msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
