# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""configs/_base_/datasets: every base feeds a model and evaluates it, on files of its format."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmdet.datasets import Objects365V2Dataset, VOCDataset
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from deim_mmdet.datasets.config_checks import check_config

ROOT = Path(__file__).resolve().parents[2]
BASES = ROOT / 'configs/_base_/datasets'
HW = (48, 64)
BOX = (8.0, 6.0, 20.0, 16.0)  # x, y, width, height of the one object of every image
NAMES = ('a', 'b', 'c', 'd')


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (*HW, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)


def coco_file(path, classes, folder, names):
    """The last class is that of the objects."""
    for name in names:
        image(folder / name)
    path.parent.mkdir(parents=True, exist_ok=True)
    annotation = dict(category_id=len(classes), bbox=BOX, area=BOX[2] * BOX[3], iscrowd=0)
    ids = range(1, len(names) + 1)
    content = dict(
        images=[dict(id=i, file_name=n, height=HW[0], width=HW[1]) for i, n in zip(ids, names)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(classes)],
        annotations=[dict(annotation, id=i, image_id=i) for i in ids],
    )
    path.write_text(json.dumps(content))


def write_custom(root):
    for split in ('train', 'val'):
        classes, names = ('first class', 'second class'), [f'{name}.jpg' for name in NAMES]
        coco_file(root / f'annotations/{split}.json', classes, root / split, names)


def write_objects365(root):
    classes = Objects365V2Dataset.METAINFO['classes']
    for split in ('train', 'val'):
        names = [f'patch1/{name}.jpg' for name in NAMES]
        path = root / f'annotations/zhiyuan_objv2_{split}.json'
        coco_file(path, classes, root / split, names)
        # as published: the folder of the version comes first
        path.write_text(path.read_text().replace('patch1/', 'images/v1/patch1/'))


def write_crowdhuman(root):
    """What is published, and what mmdet's tool makes of it."""
    for split in ('train', 'val'):
        lines = []
        for name in NAMES:
            image(root / split / 'Images' / f'{name}.jpg')
            boxes = [dict(tag='person', fbox=BOX, hbox=BOX, vbox=BOX, extra={})]
            boxes += [dict(boxes[0], tag='mask', fbox=[40, 5, 9, 9], extra=dict(ignore=1))]
            lines.append(json.dumps(dict(ID=name, gtboxes=boxes)))
        (root / f'annotation_{split}.odgt').write_text('\n'.join(lines))
    tool = Path(mmdet.__file__).parent / '.mim/tools/dataset_converters/crowdhuman2coco.py'
    command = [sys.executable, tool, '-i', root, '-o', root / 'annotations']
    subprocess.run(command, check=True, capture_output=True)


def write_voc(root):
    splits = [('VOC2007', 'trainval', 'ab'), ('VOC2012', 'trainval', 'cd')]
    splits += [('VOC2007', 'test', 'efgh')]
    for year, split, names in splits:
        listed = root / year / 'ImageSets/Main' / f'{split}.txt'
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text('\n'.join(names))
        for name in names:
            image(root / year / 'JPEGImages' / f'{name}.jpg')
            tree = ET.Element('annotation')
            size, thing = ET.SubElement(tree, 'size'), ET.SubElement(tree, 'object')
            ET.SubElement(size, 'height').text, ET.SubElement(size, 'width').text = map(str, HW)
            ET.SubElement(thing, 'name').text = VOCDataset.METAINFO['classes'][-1]
            corners = ET.SubElement(thing, 'bndbox')
            x, y, w, h = map(int, BOX)
            for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), (x, y, x + w, y + h)):
                ET.SubElement(corners, key).text = str(value + 1)  # VOC counts from 1
            path = root / year / 'Annotations' / f'{name}.xml'
            path.parent.mkdir(exist_ok=True)
            ET.ElementTree(tree).write(path)


WRITERS = dict(
    custom=write_custom, objects365=write_objects365, crowdhuman=write_crowdhuman, voc=write_voc
)


def config(name, root, extra=''):
    """The config of a user: the base with ``data_root`` set to ``root``, in one process."""
    text = (BASES / f'{name}_dense_o2o.py').read_text()
    data_root = Config.fromfile(BASES / f'{name}_dense_o2o.py').data_root
    text = text.replace(data_root, f'{root}/').replace('./coco_dense', f'{BASES}/coco_dense')
    base = root / f'{name}_dense_o2o.py'
    base.write_text(text)
    path = root / 'config.py'
    path.write_text(f"_base_ = ['{base}']\nnum = _base_.num_classes\n{extra}")
    cfg = Config.fromfile(path)
    for mode in ('train', 'val', 'test'):
        cfg[f'{mode}_dataloader'].update(batch_size=2, num_workers=0, persistent_workers=False)
    return cfg


def evaluate(cfg, mode, shift=0.0):
    """Metrics of a detector that finds every object with the last class, ``shift`` pixels off."""
    loader = Runner.build_dataloader(cfg[f'{mode}_dataloader'], seed=0)
    evaluator = Runner.build_evaluator(None, cfg[f'{mode}_evaluator'])
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        for sample in batch['data_samples']:
            x, y, w, h = BOX
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[x, y, x + w, y + h]]) + shift,
                scores=torch.tensor([0.9]),
                labels=torch.tensor([cfg.num - 1]),
            )
        evaluator.process(batch['data_samples'], batch)
    return evaluator.evaluate(len(loader.dataset))


@pytest.mark.parametrize('name', WRITERS)
def test_base_trains_and_evaluates(name, tmp_path):
    WRITERS[name](tmp_path)
    cfg = config(name, tmp_path)
    np.random.seed(0)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    assert len(loader.dataset) == 4
    assert len(loader.dataset.metainfo['classes']) == cfg.num_classes
    mosaics = 0
    for _ in range(3):  # epochs
        for batch in loader:
            assert [tuple(image.shape) for image in batch['inputs']] == [(3, 640, 640)] * 2
            for sample in batch['data_samples']:
                assert set(sample.gt_instances.labels.tolist()) <= {cfg.num_classes - 1}
                mosaics += 'mix_img_paths' in sample
    assert mosaics

    metric = cfg.get('main_metric', 'coco/bbox_mAP')
    assert evaluate(cfg, 'val')[metric] == 1.0
    assert evaluate(cfg, 'val', shift=15.0)[metric] == 0.0


def test_crowdhuman_as_the_benchmark_evaluates(tmp_path):
    write_crowdhuman(tmp_path)
    extra = """
test_dataloader = dict(dataset=dict(_delete_=True, **_base_.odgt_dataset))
test_evaluator = dict(_delete_=True, **_base_.odgt_evaluator)
"""
    cfg = config('crowdhuman', tmp_path, extra)
    # its curve starts at the first object found: recall 1/4 of the four
    best = {'crowd_human/mAP': 0.75, 'crowd_human/mMR': 0.0, 'crowd_human/JI': 1.0}
    assert evaluate(cfg, 'test') == best


def test_own_data_passes_the_checks(tmp_path):
    cfg = config('custom', tmp_path)
    checked, _ = check_config(cfg)
    assert 'train.json does not exist' in str(checked[0].problems)
    write_custom(tmp_path)
    checked, problems = check_config(cfg)
    assert problems == [] and [files.problems for files in checked] == [[], []]
