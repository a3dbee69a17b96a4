# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Images per second through a training pipeline, from JPEG files, and the time by transform.

    python tools/benchmark_loader.py CONFIG [--peer-python ~/venv-torchvision/bin/python]

Pictures like those of COCO (640 x 480 pixels, about 130 kB, 7 objects) are made in a temporary
folder. Every stage of Dense O2O is timed in one process on one thread, in seconds of CPU, which
other programs on the machine hardly change; then the data loader with its worker processes, in the
stage that the config begins with. With --peer-python, an interpreter that has torch and
torchvision, the published order of transforms runs next to it on the same files, a block of images
here, a block there.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import cv2
import numpy as np
import torch
from command_line import errors_in_one_line, positive
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from deim_mmdet.benchmark.phase_clock import PhaseClock
from deim_mmdet.datasets.config_checks import find_datasets, use_coco_files
from deim_mmdet.datasets.digits_in_scenes import draw_background, find_photographs, read_photograph
from deim_mmdet.datasets.transforms import DenseO2O, DenseO2OStage
from deim_mmdet.engine.dense_o2o_hook import find_transforms
from deim_mmdet.machine import Machine
from deim_mmdet.new_output import new_output

GRAIN = 7.0  # standard deviation of the noise that photographs have and drawn scenes lack
JPEG_QUALITY = 93
BLOCK = 50  # images in one turn of either side
STAGES = {
    'mosaic': DenseO2OStage.MOSAIC,
    'classic': DenseO2OStage.CLASSIC,
    'plain': DenseO2OStage.PLAIN_END,
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file whose training pipeline is timed')
    parser.add_argument(
        '--images',
        type=positive,
        default=200,
        help=f'timed in each stage, {BLOCK} at a time',
    )
    parser.add_argument('--files', type=positive, default=100, help='different pictures')
    parser.add_argument(
        '--picture-wh',
        type=positive,
        nargs=2,
        default=[640, 480],
        help='its width and height',
    )
    parser.add_argument('--folder', type=Path, help='keep the pictures here, and use them again')
    parser.add_argument(
        '--reduce-to', type=positive, help='of LoadReadableImage: short side to decode JPEGs to'
    )
    parser.add_argument(
        '--workers', type=int, nargs='*', default=[1, 2], help='numbers of worker processes'
    )
    parser.add_argument('--peer-python', help='interpreter that has torch and torchvision')
    parser.add_argument(
        '--peer-images-as', choices=['pil', 'tensor'], default='pil', help='what the peer works on'
    )
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with errors_in_one_line(), tempfile.TemporaryDirectory() as scratch:
        config = Config.fromfile(args.config)
        if args.peer_python and not shutil.which(args.peer_python):
            raise FileNotFoundError(f'--peer-python {args.peer_python}: no such program')
        init_default_scope(config.get('default_scope', 'mmdet'))
        folder = args.folder or Path(scratch) / 'pictures'
        if not folder.exists():
            with new_output(folder, folder=True) as new:
                make_pictures(new, args.files, args.picture_wh)
        sizes = [file.stat().st_size for file in (folder / 'images').iterdir()]
        print(args.config)
        print(f'{Machine.here()}, torch {torch.__version__}, OpenCV {cv2.__version__}')
        print(f'{len(sizes)} pictures of {statistics.mean(sizes) / 1000:.0f} kB')
        loader_config = point_at(config, folder, args.reduce_to)
        peer = None
        if args.peer_python:
            height, width = find_size(loader_config)
            if height != width:
                raise ValueError(
                    f'the published pipeline makes squares, not {height} x {width}: compare a '
                    'config with square inputs, or leave --peer-python out'
                )
            peer = Peer(args.peer_python, folder, width, args.peer_images_as)
            print(f'peer: {peer.versions}, images as {args.peer_images_as}')
        compare_stages(loader_config, args.images, peer)
        for workers in args.workers:
            rate = time_workers(loader_config, workers, args.images)
            print(f'{workers} workers: {rate:.0f} images/s on the clock')


# ------------------------------------------------------------------------------- pictures


def make_pictures(folder: Path, count: int, wh) -> None:
    """Writes ``images/*.jpg``, one in four upright, and ``annotations.json`` (COCO format)."""
    rng = np.random.default_rng(0)
    photographs = [read_photograph(path) for path in find_photographs()]
    images, annotations = [], []
    (folder / 'images').mkdir(parents=True)
    for index in range(count):
        width, height = wh if index % 4 else wh[::-1]
        picture = draw_background(rng, photographs[index % len(photographs)], (height, width))
        grain = rng.normal(0, GRAIN, (height, width, 1))
        picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
        name = f'{index:06d}.jpg'
        _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (folder / 'images' / name).write_bytes(data.tobytes())
        images.append(dict(id=index + 1, file_name=name, width=width, height=height))
        for _ in range(1 + rng.poisson(6.3)):  # 7.3 on COCO
            w, h = np.minimum(np.exp(rng.normal(4.0, 0.9, 2)), (width - 2, height - 2))
            x, y = rng.uniform(0, (width - w, height - h))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index + 1,
                    category_id=int(rng.integers(80)) + 1,
                    bbox=[float(x), float(y), float(w), float(h)],
                    area=float(w * h),
                    iscrowd=0,
                )
            )
    categories = [dict(id=i + 1, name=f'class {i + 1}') for i in range(80)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'annotations.json').write_text(json.dumps(content))


def point_at(config: Config, folder: Path, reduce_to: Optional[int] = None) -> dict:
    """The training data loader of a config, on the pictures."""
    ann_file = str(folder / 'annotations.json')
    config = use_coco_files(config, ann_file, ann_file, str(folder / 'images'))
    for dataset in find_datasets(config.train_dataloader.dataset):
        for step in dataset.pipeline:
            if step.type == 'LoadReadableImage' and reduce_to is not None:
                step.reduce_to = reduce_to
    return config.train_dataloader


def find_size(loader_config: dict):
    """Height and width of what the pipeline makes."""
    return tuple(Runner.build_dataloader(dict(loader_config)).dataset[0]['inputs'].shape[-2:])


# ------------------------------------------------------------------------------------ timing


def compare_stages(loader_config: dict, images: int, peer: Optional['Peer']) -> None:
    """Prints a table for each stage of Dense O2O; for 'classic' alone if the pipeline has none."""
    dataset = Runner.build_dataloader(dict(loader_config)).dataset
    clock = PhaseClock(torch.device('cpu'), time.process_time)
    for transform in find_all(dataset):
        clock.wrap(transform, 'transform', type(transform).__name__)
    switches = list(find_transforms(dataset, DenseO2O))
    for name in STAGES if switches else ['classic']:
        for switch in switches:
            switch.stage = STAGES[name]
        for i in range(3):
            dataset[i % len(dataset)]
        clock.seconds.clear()
        ours, theirs, steps = [], [], defaultdict(list)
        for seed in range(max(1, images // BLOCK)):
            np.random.seed(seed)
            start = time.process_time()
            for i in range(BLOCK):
                dataset[i % len(dataset)]
            ours.append((time.process_time() - start) / BLOCK)
            if peer:
                answer = peer.run(BLOCK, name, seed)
                theirs.append(answer['cpu_s'] / BLOCK)
                for step, ms in answer['ms'].items():
                    steps[step].append(ms)
        total = len(ours) * BLOCK
        print(f'\nstage {name}: {describe(ours)}')
        print_times({step: 1000 * sum(s) / total for step, s in clock.seconds.items()})
        if peer:
            print(f'  peer: {describe(theirs)}')
            print_times({step: sum(ms) / len(theirs) for step, ms in steps.items()})
            print(f'  {statistics.mean(theirs) / statistics.mean(ours):.2f} times the peer')


def find_all(dataset) -> Iterator[BaseTransform]:
    """All transforms, each once, those inside other transforms, too."""
    found, todo = [], list(find_transforms(dataset, BaseTransform))
    while todo:
        transform = todo.pop(0)
        if any(transform is known for known in found):
            continue
        found.append(transform)
        yield transform
        for inner in vars(transform).values():
            if isinstance(inner, (list, tuple)):
                todo += [item for item in inner if isinstance(item, BaseTransform)]


def describe(seconds: List[float]) -> str:
    mean = statistics.mean(seconds)
    return f'{1000 * mean:.2f} ms of CPU per image, {1 / mean:.0f} images/s per core'


def print_times(ms: Dict[str, float]) -> None:
    for step, value in sorted(ms.items(), key=lambda item: -item[1]):
        print(f'    {step:22}{value:8.2f} ms')


def time_workers(loader_config: dict, workers: int, images: int) -> float:
    """Images per second of the data loader, its processes running already."""
    config = dict(loader_config, num_workers=workers, persistent_workers=workers > 0)
    loader = Runner.build_dataloader(config, seed=0)
    if not len(loader):
        raise ValueError(
            f'{len(loader.dataset)} files do not fill a batch of '
            f'{loader.batch_sampler.batch_size}: make more with --files'
        )
    seen, start = 0, None
    while seen < images:
        for batch in loader:
            if start is None:
                start = time.perf_counter()  # the first batch waits for the processes
            else:
                seen += len(batch['inputs'])
    return seen / (time.perf_counter() - start)


class Peer:
    """tools/benchmark_loader_peer.py in another interpreter."""

    def __init__(self, python: str, folder: Path, size: int, images_as: str):
        script = Path(__file__).with_name('benchmark_loader_peer.py')
        command = [python, str(script), str(folder), '--size', str(size), '--images-as', images_as]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._read()

    def run(self, images: int, stage: str, seed: int) -> dict:
        request = dict(images=images, stage=stage, seed=seed)
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(
                f'the peer ended with {self._process.wait()}; its error is above. It needs torch, '
                'torchvision and Pillow.'
            )
        return json.loads(line)


if __name__ == '__main__':
    main()
