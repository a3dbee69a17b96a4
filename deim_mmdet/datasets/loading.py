# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, List, Optional

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.registry import HOOKS, TRANSFORMS
from mmengine.dist import all_gather_object
from mmengine.fileio import get as read_bytes
from mmengine.hooks import Hook
from torch.utils.data import get_worker_info

from .checks import find_image_damage


@TRANSFORMS.register_module()
class LoadReadableImage(LoadImageFromFile):
    """Load an image, and notice when the file is missing, truncated or no image at all.

    ``LoadImageFromFile`` hands over a truncated JPEG with grey where its end should be.

    Args:
        unreadable (str): 'stop' raises an error that names the file; 'skip' returns None, for which
            a training data set draws another image. The skipped files are noted in ``skipped``,
            which worker processes share; ``UnreadableImagesHook`` reports them. Defaults to 'stop'.
        **kwargs: Arguments of ``LoadImageFromFile``.

    Raises:
        ValueError: When an image cannot be read and ``unreadable='stop'``.
    """

    def __init__(self, unreadable: str = 'stop', **kwargs) -> None:
        super().__init__(**kwargs)
        if unreadable not in ('stop', 'skip'):
            raise ValueError(f"unreadable must be 'stop' or 'skip', got {unreadable!r}.")
        self.unreadable = unreadable
        self.skipped = SharedNotes()

    def transform(self, results: dict) -> Optional[dict]:
        path = results['img_path']
        image, damage = self._load(path)
        if damage is not None:
            if self.unreadable == 'skip':
                self.skipped.add(f'{path}: {damage}')
                return None
            raise ValueError(
                f'{path}: {damage}. Replace the file, take the image out of the annotation file, '
                'or train without it: '
                "LoadReadableImage(unreadable='skip') in the training pipeline. "
                'tools/check_dataset.py lists all such files.'
            )
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _load(self, path: str):
        """The image, or None and what is wrong with the file."""
        try:
            data = read_bytes(path, backend_args=self.backend_args)
        except OSError as error:
            return None, f'the file cannot be opened ({error.strerror or error})'
        try:
            image = (
                mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
                if data
                else None
            )
        except Exception as error:  # every decoder has errors of its own
            image = None
            if find_image_damage(data, decoded=False) is None:
                return None, f'the decoder failed ({error})'
        return image, find_image_damage(data, image is not None)

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, unreadable={self.unreadable!r})'


class SharedNotes:
    """Short notes that worker processes write and the main process reads.

    Law: a note that has been added is counted each time, and kept once; when a worker's page is
    full, further notes are counted only. Each worker writes to a page of its own in shared memory,
    so no lock is needed, under fork and spawn.
    """

    PAGES, PAGE_BYTES = 64, 8192

    def __init__(self) -> None:
        self._pages = torch.zeros(self.PAGES, self.PAGE_BYTES, dtype=torch.uint8).share_memory_()
        self._used = torch.zeros(self.PAGES, dtype=torch.int64).share_memory_()
        self._counts = torch.zeros(self.PAGES, dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict) -> 'SharedNotes':
        return self  # a copy of a data set reports to the same place

    def add(self, note: str) -> None:
        worker = get_worker_info()
        # Page 0 is the main process's.
        page = 0 if worker is None else 1 + worker.id % (self.PAGES - 1)
        line = note.replace('\n', ' ').encode() + b'\n'
        used = int(self._used[page])
        self._counts[page] += 1
        if (
            line not in bytes(self._pages[page, :used].numpy())
            and used + len(line) <= self.PAGE_BYTES
        ):
            self._pages[page, used : used + len(line)] = torch.frombuffer(
                bytearray(line), dtype=torch.uint8
            )
            self._used[page] = used + len(line)

    @property
    def count(self) -> int:
        """How many times a note was added."""
        return int(self._counts.sum())

    @property
    def notes(self) -> List[str]:
        """The different notes, sorted."""
        found = set()
        for page, used in zip(self._pages, self._used.tolist()):
            found.update(bytes(page[:used].numpy()).decode().splitlines())
        return sorted(found)


@TRANSFORMS.register_module()
class CheckImageFile(BaseTransform):
    """Stop at an image whose file is truncated; it comes after ``LoadImageFromFile``.

    For test pipelines: mmdet's ``DetInferencer`` accepts no other loader than
    ``LoadImageFromFile``, which hands over a truncated JPEG with grey where its end should be.
    Images that were not read from a file pass.

    Args:
        backend_args (dict, optional): As in ``LoadImageFromFile``. Defaults to None.

    Raises:
        ValueError: When the file is damaged; the message names it.
    """

    def __init__(self, backend_args: Optional[dict] = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        path = results.get('img_path')
        if path is None:
            return results
        damage = find_image_damage(read_bytes(path, backend_args=self.backend_args), decoded=True)
        if damage is not None:
            raise ValueError(
                f'{path}: {damage}. Replace the file or take the image out of the data. '
                'tools/check_dataset.py lists all such files.'
            )
        return results


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Report the images that ``LoadReadableImage(unreadable='skip')`` left out, after every epoch
    and at the end.

    Args:
        most (int): Name at most this many files in one report. Defaults to 5.
    """

    priority = 'LOW'

    def __init__(self, most: int = 5) -> None:
        self.most = most
        self._reported = 0

    def after_train_epoch(self, runner) -> None:
        self._report(runner, 'so far')

    def after_train(self, runner) -> None:
        self._report(runner, 'in the whole run')

    def _report(self, runner, period: str) -> None:
        mine = find_skipped(runner.train_dataloader.dataset)
        counts: Dict[str, int] = {}
        total = 0
        for count, notes in all_gather_object((mine.count, mine.notes) if mine else (0, [])):
            total += count
            counts.update(dict.fromkeys(notes))
        if total == 0 or (period == 'so far' and total == self._reported):
            return
        self._reported = total
        files = sorted(counts)
        rest = f'\n  and {len(files) - self.most} more' if len(files) > self.most else ''
        runner.logger.warning(
            f'{len(files)} unreadable images were skipped {period} ({total} times another one was '
            'drawn):\n  '
            + '\n  '.join(files[: self.most])
            + rest
            + '\nReplace them, or take them out of the annotation file; tools/check_dataset.py '
            'lists them all.'
        )


def find_skipped(dataset) -> Optional['_Sum']:
    """The notes of all ``LoadReadableImage`` in a data set and those it wraps; None when there is
    none."""
    found, todo, seen = [], [dataset], set()
    while todo:
        item = todo.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, LoadReadableImage):
            found.append(item.skipped)
        # Wrapped data sets, pipelines, and transforms that hold transforms.
        for name in ('dataset', 'datasets', 'pipeline', 'transforms'):
            inner = getattr(item, name, None)
            if isinstance(inner, (list, tuple)):
                todo.extend(inner)
            elif inner is not None and not isinstance(inner, (str, dict)):
                todo.append(inner)
    return _Sum(found) if found else None


class _Sum:
    def __init__(self, parts: List[SharedNotes]) -> None:
        self.count = sum(part.count for part in parts)
        self.notes = sorted({note for part in parts for note in part.notes})
