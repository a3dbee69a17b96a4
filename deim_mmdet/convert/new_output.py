# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Union

PathLike = Union[str, os.PathLike]


@contextmanager
def new_output(
    target: PathLike,
    overwrite: bool = False,
    source: Optional[PathLike] = None,
    folder: bool = False,
) -> Iterator[Path]:
    """Let a new file or folder appear complete, or not at all.

    Args:
        target (str | PathLike): What to make.
        overwrite (bool): Replace an existing ``target``. A folder is replaced only when the new one
            has entries of all its names, so that nothing else is lost. Defaults to False.
        source (str | PathLike, optional): The input, which is never replaced. Defaults to None.
        folder (bool): Whether a folder is made, not a file. Defaults to False.

    Yields:
        Path: Where to make it, in the same folder; nothing is there yet.

    Raises:
        FileExistsError: ``target`` exists.
        ValueError: ``target`` is ``source``, or is a folder that is not to be replaced.
    """
    target = Path(target)
    _refuse_to_lose(target, overwrite, source, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f'.{target.name}.') as hidden:
        new, old = Path(hidden, 'new'), Path(hidden, 'old')
        yield new
        for path in [new, *new.rglob('*')]:
            if path.is_file():
                with open(path, 'rb+') as file:
                    os.fsync(file.fileno())
        if target.is_dir():
            lost = {path.name for path in target.iterdir()} - {path.name for path in new.iterdir()}
            if lost:
                raise ValueError(
                    f'{target} holds other things too ({", ".join(sorted(lost))}), which would be '
                    'lost: give another name for the output.'
                )
            os.replace(target, old)  # a folder cannot replace one that holds something
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise


def _refuse_to_lose(
    target: Path, overwrite: bool, source: Optional[PathLike], folder: bool
) -> None:
    if not target.exists():
        return
    if source is not None and os.path.exists(source) and os.path.samefile(source, target):
        raise ValueError(f'{target} is the input itself: give another name for the output.')
    if folder and target.is_file():
        raise ValueError(f'{target} is a file: give the name of the new folder.')
    if not folder and target.is_dir():
        raise ValueError(f'{target} is a folder: give the name of the new file.')
    if not overwrite:
        raise FileExistsError(f'{target} exists: give another name, or --overwrite.')
