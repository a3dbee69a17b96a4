# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, List, Optional

import cv2
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

REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}


@TRANSFORMS.register_module()
class LoadReadableImage(LoadImageFromFile):
    """Load an image, and notice when the file is missing, truncated or no image at all.

    ``LoadImageFromFile`` hands over a truncated JPEG with grey where its end should be.

    Args:
        unreadable (str): 'stop' raises an error that names the file; 'skip' returns None, for which
            a training data set draws another image. The skipped files are noted in ``skipped``,
            which worker processes share; ``UnreadableImagesHook`` reports them. Defaults to 'stop'.
        reduce_to (int, optional): Decode a JPEG at 1/2, 1/4 or 1/8 of its size, the smallest whose
            short side still has this many pixels, and scale the boxes in ``instances`` with it.
            libjpeg then computes only those pixels: means of the blocks, nearly what shrinking
            makes of the whole image, in a fraction of the time. For training, before
            ``LoadAnnotations(with_bbox=True)``; masks and key points are taken out. A crop of a
            reduced image has fewer pixels than one of the whole image: with crops down to 0.3
            of a side that are drawn at 640 pixels, 2133 loses nothing, and 1280 some detail of the
            smallest crops. Images whose size the data set does not tell stay whole. Defaults to
            None.
        **kwargs: Arguments of ``LoadImageFromFile``.

    Raises:
        ValueError: When an image cannot be read and ``unreadable='stop'``.
    """

    def __init__(self, unreadable: str = 'stop', reduce_to: Optional[int] = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if unreadable not in ('stop', 'skip'):
            raise ValueError(f"unreadable must be 'stop' or 'skip', got {unreadable!r}.")
        if reduce_to is not None:
            if reduce_to < 1:
                raise ValueError(f'reduce_to must be at least 1 pixel, got {reduce_to}.')
            if self.imdecode_backend != 'cv2' or self.color_type != 'color':
                raise ValueError(
                    "reduce_to needs imdecode_backend='cv2' and color_type='color', got "
                    f'{self.imdecode_backend!r} and {self.color_type!r}.'
                )
        self.unreadable = unreadable
        self.reduce_to = reduce_to
        self.skipped = SharedNotes()

    def transform(self, results: dict) -> Optional[dict]:
        path = results['img_path']
        image, damage, factor = self._load(path, self._factor(results))
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
        if factor > 1:
            _reduce_instances(results, factor)
        return results

    def _factor(self, results: dict) -> int:
        """The image may be decoded at one over this."""
        sides = results.get('height'), results.get('width')
        if self.reduce_to is None or None in sides:
            return 1
        return next((f for f in REDUCED if min(sides) / f >= self.reduce_to), 1)

    def _load(self, path: str, factor: int):
        """The image, or None; what is wrong with the file; and what it is reduced by."""
        try:
            data = read_bytes(path, backend_args=self.backend_args)
        except OSError as error:
            return None, f'the file cannot be opened ({error.strerror or error})', 1
        if data[:2] != b'\xff\xd8':  # OpenCV reduces other formats after decoding them whole
            factor = 1
        try:
            image = (
                mmcv.imfrombytes(
                    data, flag=REDUCED.get(factor, self.color_type), backend=self.imdecode_backend
                )
                if data
                else None
            )
        except Exception as error:  # every decoder has errors of its own
            image = None
            if find_image_damage(data, decoded=False) is None:
                return None, f'the decoder failed ({error})', 1
        return image, find_image_damage(data, image is not None), factor

    def __repr__(self) -> str:
        return (
            f'{super().__repr__()[:-1]}, unreadable={self.unreadable!r}, '
            f'reduce_to={self.reduce_to})'
        )


def _reduce_instances(results: dict, factor: int) -> None:
    """Boxes for an image at one over ``factor``. libjpeg rounds sides up, so a pixel stands for
    exactly ``factor`` of the original, whatever the size."""
    results['instances'] = [
        dict(
            {key: value for key, value in instance.items() if key not in ('mask', 'keypoints')},
            bbox=[side / factor for side in instance['bbox']],
        )
        for instance in results.get('instances', [])
    ]


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
