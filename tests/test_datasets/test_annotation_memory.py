# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Worker processes read annotations without making a copy of them.

tools/benchmark_annotations.py measures the same at the size of COCO.
"""

import gc
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from deim_mmdet.datasets import CheckedCocoDataset

IMAGES, BOXES_PER_IMAGE = 1500, 10
SMAPS = Path('/proc/self/smaps_rollup')


@pytest.fixture(scope='module')
def ann_file(tmp_path_factory):
    images = [dict(id=i, file_name=f'{i}.jpg', width=640, height=480) for i in range(1, IMAGES + 1)]
    annotations = [
        dict(
            id=i + 1,
            image_id=1 + i // BOXES_PER_IMAGE,
            category_id=1,
            bbox=[i % 600 + 0.5, 7.25, 30.5, 40.25],
            segmentation=[[i % 600 + 0.1 * k for k in range(24)]],
        )
        for i in range(IMAGES * BOXES_PER_IMAGE)
    ]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])
    path = tmp_path_factory.mktemp('annotations') / 'annotations.json'
    path.write_text(json.dumps(content))
    return str(path)


def build(ann_file, serialize_data):
    # an address in the place of a folder: no image file is looked for
    return CheckedCocoDataset(
        ann_file=ann_file, data_prefix=dict(img='none://'), serialize_data=serialize_data
    )


def own_memory():
    """Bytes of memory that this process shares with nobody."""
    lines = SMAPS.read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith('Private_'))


def read_all(dataset, answer):
    gc.disable()  # it writes to every object, whatever is read
    dataset.get_data_info(0)
    before = own_memory()
    for i in range(len(dataset)):
        dataset.get_data_info(i)
    answer.send(own_memory() - before)


def growth_of_a_worker(dataset):
    context = multiprocessing.get_context('fork')
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=read_all, args=(dataset, theirs))
    process.start()
    theirs.close()
    growth = mine.recv()
    process.join()
    return growth


@pytest.mark.skipif(not SMAPS.exists(), reason='reads /proc/self/smaps_rollup')
def test_workers_share_annotations(ann_file):
    arrays, objects = (build(ann_file, serialize_data) for serialize_data in (True, False))
    assert arrays.data_list == [] and isinstance(arrays.data_bytes, np.ndarray)
    assert arrays.get_data_info(7) == objects.get_data_info(7)
    with_arrays, with_objects = growth_of_a_worker(arrays), growth_of_a_worker(objects)
    assert with_objects > 0.5 * arrays.data_bytes.nbytes  # what counting references costs
    assert with_arrays < 0.2 * with_objects
