# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The published order of Dense O2O in torchvision's transforms (v2): what tools/benchmark_loader.py
compares with.

Needs torch, torchvision and Pillow, and nothing of this package, so that it may run in an
environment of its own. It reads one request per line, as JSON, and answers each with one line:

{"images": 200, "stage": "mosaic", "seed": 0} -> {"cpu_s": 9.1, "ms": {"decode": 5.1, ...}}
"""

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

SHORT_SIDE = 320  # of an image of the mosaic, in pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='holds images/ and annotations.json')
    parser.add_argument('--size', type=int, default=640, help='side of the input of the model')
    parser.add_argument(
        '--images-as',
        choices=['pil', 'tensor'],
        default='pil',
        help='pil: as the published programs; tensor: uint8 tensors from the first step on',
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = PublishedPipeline(args.folder, args.size, args.images_as == 'tensor')
    versions = dict(torch=torch.__version__, torchvision=torchvision.__version__)
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(pipeline, **json.loads(line))), flush=True)


def measure(pipeline, images: int, stage: str, seed: int) -> dict:
    """Seconds of CPU for as many samples of a stage; ms of CPU per sample by step."""
    random.seed(seed)
    torch.manual_seed(seed)
    pipeline.seconds.clear()
    start = time.process_time()
    for i in range(images):
        pipeline.sample(i % len(pipeline.files), stage)
    cpu = time.process_time() - start
    steps = {step: 1000 * value / images for step, value in pipeline.seconds.items()}
    return dict(cpu_s=cpu, ms=steps)


class PublishedPipeline:
    """Mosaic -> photometric -> ZoomOut -> IoU crop -> flip -> resize -> RGB / 255, as published.

    Args:
        folder (Path): Holds ``images/`` and ``annotations.json`` (COCO format).
        size (int): Side of the square that samples are resized to.
        as_tensor (bool): Whether images are uint8 tensors, not PIL images.
    """

    def __init__(self, folder: Path, size: int, as_tensor: bool):
        content = json.loads((folder / 'annotations.json').read_text())
        boxes = defaultdict(list)
        for annotation in content['annotations']:
            x, y, w, h = annotation['bbox']
            boxes[annotation['image_id']].append(([x, y, x + w, y + h], annotation['category_id']))
        self.files = [
            (folder / 'images' / image['file_name'], boxes[image['id']])
            for image in content['images']
        ]
        self.as_tensor = as_tensor
        self.seconds = defaultdict(float)
        sanitize = v2.SanitizeBoundingBoxes(min_size=1)
        self.photometric = v2.RandomPhotometricDistort(p=0.5)
        self.classic = [
            ('photometric', self.photometric),
            ('zoom out', v2.RandomZoomOut(fill=0)),
            ('IoU crop', v2.RandomApply([v2.RandomIoUCrop()], p=0.8)),
        ]
        self.affine = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.5, 1.5), fill=0)
        self.last = [
            ('drop boxes', sanitize),
            ('flip', v2.RandomHorizontalFlip(0.5)),
            ('resize', v2.Resize((size, size))),
            ('drop boxes', sanitize),
            ('to tensor', v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])),
            ('boxes', v2.ConvertBoundingBoxFormat('CXCYWH')),
        ]

    def sample(self, index: int, stage: str):
        """One sample of a stage: 'plain', 'classic', or 'mosaic' (every second one a mosaic)."""
        if stage == 'mosaic' and random.random() < 0.5:
            sample = self.mosaic(index)
            steps = [('photometric', self.photometric)]
        else:
            sample = self.load(index)
            steps = [] if stage == 'plain' else self.classic
        for name, transform in [*steps, *self.last]:
            sample = self.timed(name, transform, *sample)
        image, target = sample
        target['boxes'] = target['boxes'] / image.shape[-1]
        return image, target

    def load(self, index: int):
        path, objects = self.files[index]
        image = self.timed('decode', self.decode, path)
        boxes = torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([label for _, label in objects], dtype=torch.int64)
        size = F.get_size(image)
        boxes = tv_tensors.BoundingBoxes(boxes, format='XYXY', canvas_size=size)
        return image, dict(boxes=boxes, labels=labels)

    def decode(self, path: Path):
        if self.as_tensor:
            return tv_tensors.Image(decode_image(read_file(str(path)), ImageReadMode.RGB))
        return Image.open(path).convert('RGB')

    def mosaic(self, index: int):
        """Four images, short side 320, in the corners of equal tiles; then a random affine map."""
        others = [random.randrange(len(self.files)) for _ in range(3)]
        parts = [self.load(i) for i in [index, *others]]
        parts = [self.timed('resize of four', v2.Resize(SHORT_SIDE), *part) for part in parts]
        return self.timed('affine', self.affine, *self.timed('canvas', self.arrange, parts))

    def arrange(self, parts):
        sizes = [F.get_size(image) for image, _ in parts]
        height, width = (max(sides) for sides in zip(*sizes))
        corners = [(0, 0), (width, 0), (0, height), (width, height)]
        if self.as_tensor:
            canvas = tv_tensors.Image(torch.zeros(3, 2 * height, 2 * width, dtype=torch.uint8))
        else:
            canvas = Image.new('RGB', (2 * width, 2 * height))
        boxes = []
        for (image, target), (h, w), (x, y) in zip(parts, sizes, corners):
            if self.as_tensor:
                canvas[:, y : y + h, x : x + w] = image
            else:
                canvas.paste(image, (x, y))
            boxes.append(target['boxes'].as_subclass(torch.Tensor) + torch.tensor([x, y, x, y]))
        boxes = tv_tensors.BoundingBoxes(
            torch.cat(boxes), format='XYXY', canvas_size=(2 * height, 2 * width)
        )
        return canvas, dict(boxes=boxes, labels=torch.cat([t['labels'] for _, t in parts]))

    def timed(self, name: str, function, *args):
        start = time.process_time()
        result = function(*args)
        self.seconds[name] += time.process_time() - start
        return result


if __name__ == '__main__':
    main()
