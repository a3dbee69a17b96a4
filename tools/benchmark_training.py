# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes: data loading, forward, matching, losses, backward,
optimiser.

python tools/benchmark_training.py configs/deim/deim_dfine_hgnetv2-n_8xb16-160e_coco.py
--batch-size 8
"""

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import Dict, List

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData

PHASES = ('forward', 'matching', 'losses', 'backward', 'optimiser')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'config', help='config file of a detector with a set-prediction head of this package'
    )
    parser.add_argument(
        '--size', type=int, nargs='+', default=[640], help='input height and width, or one side'
    )
    parser.add_argument('--batch-size', type=int, default=8, help='images per step')
    parser.add_argument('--objects', type=int, default=60, help='objects per image')
    parser.add_argument('--steps', type=int, default=5, help='timed steps')
    parser.add_argument('--warmup', type=int, default=1, help='steps before the timed ones')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--skip-loader', action='store_true', help='do not time data loading')
    parser.add_argument('--amp', action='store_true', help="with the config's mixed precision")
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    MMLogger.get_instance('mmdet', log_level='WARNING')  # no line per initialised tensor
    config = Config.fromfile(args.config)
    init_default_scope(config.get('default_scope', 'mmdet'))
    height, width = (args.size * 2)[:2]

    model = build_model(config, args.device)
    if not args.amp:
        config.optim_wrapper.type = 'OptimWrapper'
        config.optim_wrapper.pop('dtype', None)
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    batch = synthetic_batch(
        args.batch_size, height, width, args.objects, model.bbox_head.num_classes
    )
    times = time_steps(model, optim_wrapper, batch, args.warmup, args.steps)
    if not args.skip_loader:
        try:
            times['data loading'] = time_loader(config, args.warmup, args.steps)
        except FileNotFoundError as error:
            print(f'data loading is not timed: {error}')

    print(
        f'{args.config}\n{args.batch_size} images of {height} x {width}, '
        f'{args.objects} objects each, {args.device}, torch {torch.__version__}, '
        f'{torch.get_num_threads()} threads, '
        f'{"mixed precision" if args.amp else "float32"}, median of {args.steps} steps'
    )
    print_table(times)


def build_model(config: Config, device: str) -> torch.nn.Module:
    """The detector, in training mode and without multi-scale: every step has the same size."""
    from mmdet.registry import MODELS

    cfg = config.model.copy()
    cfg.data_preprocessor = dict(cfg.data_preprocessor, batch_augments=None)
    cfg.backbone = dict(cfg.backbone, init_cfg=None)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.to(device).train()


def synthetic_batch(
    batch_size: int, height: int, width: int, objects: int, num_classes: int
) -> Dict[str, list]:
    """Noise images with random boxes inside them, as a collated batch of the data loader."""
    from mmdet.structures import DetDataSample

    samples = []
    for _ in range(batch_size):
        wh = 0.02 + 0.2 * torch.rand(objects, 2)
        centre = wh / 2 + (1 - wh) * torch.rand(objects, 2)
        boxes = torch.cat([centre - wh / 2, centre + wh / 2], dim=1)
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes * boxes.new_tensor([width, height, width, height]),
            labels=torch.randint(num_classes, (objects,)),
        )
        samples.append(sample)
    images = list(torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8))
    return dict(inputs=images, data_samples=samples)


def time_steps(
    model, optim_wrapper, batch: Dict[str, list], warmup: int, steps: int
) -> Dict[str, List[float]]:
    """Seconds of every phase of every timed step; phases do not contain each other."""
    clock = PhaseClock(next(model.parameters()).device)
    clock.wrap(model, 'loss', 'forward')
    clock.wrap(model.bbox_head, 'loss', 'losses')
    clock.wrap(model.bbox_head, 'assign', 'matching')
    clock.wrap(optim_wrapper, 'backward', 'backward')
    clock.wrap(optim_wrapper, 'step', 'optimiser')
    for step in range(warmup + steps):
        if step == warmup:
            clock.seconds.clear()
        with optim_wrapper.optim_context(model):
            data = model.data_preprocessor(batch, training=True)
            losses = model(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
        optim_wrapper.update_params(loss)
    return {phase: clock.seconds[phase] for phase in PHASES}


class PhaseClock:
    """Times methods; what a timed method spends inside another timed one is the other's.

    Args:
        device (torch.device): Device to wait for before the clock is read.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = defaultdict(list)
        self.inner = []

    def wrap(self, owner: object, method: str, phase: str):
        """Replace ``owner.method`` by a version that adds to ``phase``."""
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            with self.measure(phase):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    @contextmanager
    def measure(self, phase: str):
        self.inner.append(0.0)
        start = self.now()
        yield
        total = self.now() - start
        self.seconds[phase].append(total - self.inner.pop())
        if self.inner:
            self.inner[-1] += total

    def now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def time_loader(config: Config, warmup: int, steps: int) -> List[float]:
    """Seconds per batch of the config's own training data loader, workers included."""
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    seconds, start = [], time.perf_counter()
    for step, _ in enumerate(loader):
        seconds.append(time.perf_counter() - start)
        if step + 1 == warmup + steps:
            break
        start = time.perf_counter()
    return seconds[warmup:]


def print_table(times: Dict[str, List[float]]):
    medians = {phase: statistics.median(seconds) for phase, seconds in times.items()}
    step = sum(medians[phase] for phase in PHASES)
    for phase, seconds in medians.items():
        share = f'{100 * seconds / step:5.1f} % of a step' if phase in PHASES else 'beside the step'
        print(f'{phase:16}{1000 * seconds:10.1f} ms  {share}')
    print(f'{"step":16}{1000 * step:10.1f} ms')
    both = medians['matching'] + medians['losses']
    print(f'matching + losses take {100 * both / step:.2f} % of a step')


if __name__ == '__main__':
    main()
