# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Memory and time of the annotations of a large data set, with and without worker processes.

    python tools/benchmark_annotations.py

Writes an annotation file of the size of COCO train2017 (118,287 images, 860,001 boxes) into a
temporary folder, and reads the annotations: of every tenth image in one process, then of all
through worker processes. Memory is the sum of the proportional set sizes (PSS,
/proc/PID/smaps_rollup) of all processes, in which a page that N processes share counts 1/N for
each: what the whole takes.
"""

import argparse
import json
import logging
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch
from command_line import errors_in_one_line, positive
from mmengine.registry import init_default_scope

import deim_mmdet  # noqa: F401  makes mmdet importable with mmcv-lite
from deim_mmdet.machine import Machine

from mmdet.registry import DATASETS  # isort: skip


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=positive, default=118_287, help='in the file')
    parser.add_argument('--boxes', type=positive, default=860_001, help='in the file')
    parser.add_argument('--workers', type=positive, default=4, help='worker processes')
    parser.add_argument(
        '--dataset',
        nargs='+',
        default=['CheckedCocoDataset', 'CocoDataset'],
        help='types of data sets to compare',
    )
    parser.add_argument(
        '--objects',
        action='store_true',
        help='with Python objects instead of arrays as well (serialize_data=False)',
    )
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    with errors_in_one_line(), tempfile.TemporaryDirectory() as folder:
        proportional_mb([os.getpid()])  # there may be no such file: told before the work
        print(Machine.here())
        ann_file = write_annotations(Path(folder), args.images, args.boxes)
        size = ann_file.stat().st_size / 1e6
        print(f'{args.images} images, {args.boxes} boxes, file of {size:.0f} MB')
        print(
            f'{"":34}{"load":>8}{"1 process":>12}{f"{args.workers} workers":>12}{"ratio":>7}'
            f'{"an image":>11}'
        )
        for kind in args.dataset:
            for arrays in (True, False) if args.objects else (True,):
                # a process of its own: memory that was freed stays with a process for a while
                with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as apart:
                    measured = apart.submit(measure, kind, str(ann_file), arrays, args.workers)
                    found = measured.result()
                name = kind if arrays else f'{kind}, objects'
                print(
                    f'{name:34}{found["load"]:6.1f} s{found["alone"]:9.0f} MB'
                    f'{found["together"]:9.0f} MB{found["together"] / found["alone"]:7.2f}'
                    f'{1e6 * found["each"]:8.0f} µs',
                    flush=True,
                )


def write_annotations(folder: Path, num_images: int, num_boxes: int) -> Path:
    """A COCO-format file: 640 x 480 pixels, 80 classes, boxes at random, polygons of 12 points."""
    rng = np.random.default_rng(0)
    images = [
        dict(
            id=i,
            file_name=f'{i:012d}.jpg',
            width=640,
            height=480,
            license=1,
            coco_url=f'http://images.cocodataset.org/train2017/{i:012d}.jpg',
        )
        for i in range(1, num_images + 1)
    ]
    wh = np.exp(rng.normal(4.0, 0.9, (num_boxes, 2))).clip(4, 400).round(2)
    xy = (rng.random((num_boxes, 2)) * ((640, 480) - wh)).round(2)
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    outline = np.stack([np.cos(turns), np.sin(turns)], axis=-1) / 2 + 0.5
    image_ids = rng.integers(1, num_images + 1, num_boxes)
    annotations = []
    for i in range(num_boxes):
        polygon = (xy[i] + outline * wh[i]).round(2).ravel().tolist()
        annotations.append(
            dict(
                id=i + 1,
                image_id=int(image_ids[i]),
                category_id=1 + i % 80,
                bbox=[*xy[i].tolist(), *wh[i].tolist()],
                area=float(wh[i].prod()),
                iscrowd=0,
                segmentation=[polygon],
            )
        )
    categories = [dict(id=i + 1, name=f'class {i + 1}') for i in range(80)]
    path = folder / 'annotations.json'
    content = dict(images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(content))
    return path


def measure(kind: str, ann_file: str, arrays: bool, workers: int) -> Dict[str, float]:
    """Seconds to load, MB alone and together with workers, and seconds of CPU for each image."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    start = time.perf_counter()
    dataset = DATASETS.build(
        dict(
            type=kind,
            ann_file=ann_file,
            data_prefix=dict(img='none://'),  # an address: no image file is looked for
            metainfo=dict(classes=tuple(f'class {i + 1}' for i in range(80))),
            serialize_data=arrays,
            pipeline=[dict(type='LoadAnnotations', with_bbox=True)],
        )
    )
    load = time.perf_counter() - start

    start = time.process_time()
    for i in range(0, len(dataset), 10):
        dataset[i]
    each = (time.process_time() - start) / len(range(0, len(dataset), 10))
    alone = proportional_mb([os.getpid()])

    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=64,
        num_workers=workers,
        shuffle=True,
        collate_fn=len,
        multiprocessing_context='fork',
        persistent_workers=True,
    )
    for _ in loader:
        pass
    children = [process.pid for process in multiprocessing.active_children()]
    assert len(children) == workers
    together = proportional_mb([os.getpid(), *children])
    return dict(load=load, alone=alone, together=together, each=each)


def proportional_mb(pids: List[int]) -> float:
    """Sum of the proportional set sizes of processes, in MB."""
    total = 0
    for pid in pids:
        for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
            if line.startswith('Pss:'):
                total += int(line.split()[1])
    return total * 1024 / 1e6


if __name__ == '__main__':
    main()
