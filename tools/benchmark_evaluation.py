# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Time of COCO AP by engine, and whether the engines agree.

    python tools/benchmark_evaluation.py

Makes the ground truth of 5,000 images (7.3 objects each, 80 classes) and 300 detections for each:
objects found well, found badly, found twice, and noise. Every engine evaluates the same results.
Seconds are those of CPU, which other programs on the machine hardly change.
"""

import argparse
import importlib.util
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from command_line import positive
from mmengine.logging import MMLogger

import deim_mmdet  # noqa: F401
from deim_mmdet.datasets import CheckedCocoMetric
from deim_mmdet.machine import Machine

ENGINES = ('pycocotools', 'faster_coco_eval')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=positive, default=5000, help='with ground truth')
    parser.add_argument('--detections', type=positive, default=300, help='per image')
    parser.add_argument('--classes', type=positive, default=80, help='of the objects')
    parser.add_argument(
        '--engines', nargs='+', choices=ENGINES, default=ENGINES, help='those that are installed'
    )
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    engines = [engine for engine in args.engines if importlib.util.find_spec(engine)]
    for engine in set(args.engines) - set(engines):
        print(f'{engine} is not installed')
    if not engines:
        raise SystemExit('error: no engine to time: pip install faster-coco-eval pycocotools')
    MMLogger.get_instance('mmdet', log_level='WARNING')
    logging.disable(logging.WARNING)
    rng = np.random.default_rng(0)
    content = make_ground_truth(rng, args.images, args.classes)
    samples = list(make_results(rng, content, args.detections))
    print(Machine.here())
    print(f'{args.images} images, {args.detections} detections each, {args.classes} classes')
    with tempfile.TemporaryDirectory() as folder:
        ann_file = Path(folder) / 'annotations.json'
        ann_file.write_text(json.dumps(content))
        found = {}
        for engine in engines:
            found[engine], seconds = evaluate(str(ann_file), samples, engine)
            print(f'{engine:18}{sum(seconds.values()):7.1f} s   ' + describe(seconds))
    first, *others = engines
    for other in others:
        gap = max(abs(found[first][key] - found[other][key]) for key in found[other])
        print(f'{first} and {other} differ by {gap:.1e} at most')
    print({key: round(float(value), 6) for key, value in found[first].items()})


def make_ground_truth(rng, num_images: int, num_classes: int) -> dict:
    images = [
        dict(id=i, file_name=f'{i}.jpg', width=640, height=480) for i in range(1, num_images + 1)
    ]
    annotations = []
    for image in images:
        for _ in range(1 + rng.poisson(6.3)):
            wh = np.exp(rng.normal(4.0, 0.9, 2)).clip(4, 400)
            xy = rng.random(2) * ((640, 480) - wh)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=int(rng.integers(num_classes)) + 1,
                    bbox=[*xy.tolist(), *wh.tolist()],
                    area=float(wh.prod()),
                    iscrowd=int(rng.random() < 0.01),
                )
            )
    categories = [dict(id=i + 1, name=f'class {i + 1}') for i in range(num_classes)]
    return dict(images=images, annotations=annotations, categories=categories)


def make_results(rng, content: dict, detections: int):
    """Yields what a detector hands to the metric, image by image."""
    objects = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        objects[annotation['image_id']].append(annotation)
    num_classes = len(content['categories'])
    for image in content['images']:
        xy = rng.random((detections, 2)) * (560, 400)
        wh = np.exp(rng.normal(4.0, 0.9, (detections, 2))).clip(4, 400)
        boxes = np.concatenate([xy, xy + wh], axis=1)
        labels = rng.integers(num_classes, size=detections)
        scores = 0.5 * rng.random(detections) ** 2
        row = 0
        for annotation in objects[image['id']]:
            x, y, w, h = annotation['bbox']
            for _ in range(rng.integers(3)):
                if row == detections:
                    break
                shift = rng.normal(0, 0.08, 4) * (w, h, w, h)
                boxes[row] = np.array([x, y, x + w, y + h]) + shift
                labels[row] = annotation['category_id'] - 1
                scores[row] = rng.random()
                row += 1
        prediction = dict(
            bboxes=torch.from_numpy(boxes.astype(np.float32)),
            scores=torch.from_numpy(scores.astype(np.float32)),
            labels=torch.from_numpy(labels),
        )
        yield dict(img_id=image['id'], ori_shape=(480, 640), pred_instances=prediction)


def evaluate(ann_file: str, samples: list, engine: str):
    """AP unrounded, and seconds of CPU of preparation and of the engine."""
    metric = CheckedCocoMetric(ann_file, metric='bbox', engine=engine)
    classes = len(json.loads(Path(ann_file).read_text())['categories'])
    metric.dataset_meta = dict(classes=tuple(f'class {i + 1}' for i in range(classes)))
    start = time.process_time()
    metric.process({}, samples)
    watch = EngineWatch(metric)
    metric.compute_metrics(metric.results)
    total = time.process_time() - start
    return watch.metrics(), {'results': total - watch.seconds, 'engine': watch.seconds}


class EngineWatch:
    """Times an engine, and keeps its numbers before they are rounded."""

    def __init__(self, metric: CheckedCocoMetric):
        self._make, self.seconds = metric._engine, 0.0
        metric._engine = self._start

    def _start(self, *args, **kwargs):
        self._evaluator = self._make(*args, **kwargs)
        for name in ('evaluate', 'accumulate', 'summarize'):
            setattr(self._evaluator, name, self._timed(getattr(self._evaluator, name)))
        return self._evaluator

    def _timed(self, method):
        def timed():
            start = time.process_time()
            method()
            self.seconds += time.process_time() - start

        return timed

    def metrics(self) -> dict:
        names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@100', 'AR@300')
        return dict(zip(names, self._evaluator.stats))


def describe(seconds: dict) -> str:
    return ', '.join(f'{name} {value:.1f} s' for name, value in seconds.items())


if __name__ == '__main__':
    main()
