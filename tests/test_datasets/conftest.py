# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope


@pytest.fixture(autouse=True)
def mmdet_scope():
    init_default_scope('mmdet')


@pytest.fixture
def coco(tmp_path):
    """Write a COCO-format data set: ``coco(annotations, **changes) -> path of the annotation
    file``.

    Two images of 40 x 30 pixels (width x height), ``images/a.jpg`` and ``images/b.jpg``; categories
    'cat' (id 7) and 'dog' (id 3), in this order.
    """

    def write(annotations=(), name='ann.json', **changes):
        folder = tmp_path / 'images'
        folder.mkdir(exist_ok=True)
        for stem, grey in (('a', 60), ('b', 200)):
            cv2.imwrite(str(folder / f'{stem}.jpg'), np.full((30, 40, 3), grey, np.uint8))
        content = dict(
            images=[
                dict(id=1, file_name='a.jpg', width=40, height=30),
                dict(id=2, file_name='b.jpg', width=40, height=30),
            ],
            categories=[dict(id=7, name='cat'), dict(id=3, name='dog')],
            annotations=list(annotations),
        )
        content.update(changes)
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    return write


def annotation(id, bbox, image_id=1, category_id=7, **other):
    x, y, w, h = bbox
    return dict(
        id=id,
        bbox=bbox,
        image_id=image_id,
        category_id=category_id,
        iscrowd=0,
        area=w * h,
        **other,
    )
