# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Union

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
    refuse_to_lose(target, overwrite, source, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f'.{target.name}.') as hidden:
        new, old = Path(hidden, 'new'), Path(hidden, 'old')
        yield new
        _flush([new, *new.rglob('*')])
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


@contextmanager
def new_outputs(
    targets: Sequence[PathLike], overwrite: bool = False, source: Optional[PathLike] = None
) -> Iterator[List[Path]]:
    """Let new files that belong together appear complete, all of them or none.

    Args:
        targets (Sequence[str | PathLike]): What to make, in one folder.
        overwrite (bool): Replace existing files. Defaults to False.
        source (str | PathLike, optional): The input, which is never replaced. Defaults to None.

    Yields:
        list[Path]: Where to make them, in a hidden folder beside ``targets``, under their names.

    Raises:
        FileExistsError: One of them exists.
        ValueError: One of them is ``source``, or a folder.
    """
    targets = [Path(target) for target in targets]
    for target in targets:
        refuse_to_lose(target, overwrite, source)
    parent = targets[0].parent
    assert all(target.parent == parent for target in targets)
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f'.{targets[0].name}.') as hidden:
        folders = [Path(hidden, name) for name in ('new', 'old')]
        for folder in folders:
            folder.mkdir()
        new, old = ([folder / target.name for target in targets] for folder in folders)
        yield new
        _flush(new)
        try:
            for target, path in zip(targets, old):
                if target.exists():
                    os.replace(target, path)
            for path, target in zip(new, targets):
                os.replace(path, target)
        except BaseException:  # Ctrl-C, too
            for target, made, path in zip(targets, new, old):
                if path.exists():
                    os.replace(path, target)
                elif target.exists() and not made.exists():
                    target.unlink()
            raise


def _flush(paths: Sequence[Path]) -> None:
    """What is moved into place is on the disk, even if the machine stops."""
    for path in paths:
        if path.is_file():
            with open(path, 'rb+') as file:
                os.fsync(file.fileno())


def refuse_to_lose(
    target: PathLike,
    overwrite: bool = False,
    source: Optional[PathLike] = None,
    folder: bool = False,
) -> None:
    """Refuse what :func:`new_output` would refuse, before the work is done.

    Args:
        target, overwrite, source, folder: As in :func:`new_output`.

    Raises:
        FileExistsError: ``target`` exists.
        ValueError: ``target`` is ``source``, or is a file where a folder is made, or a folder where
            a file is.
    """
    target = Path(target)
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
