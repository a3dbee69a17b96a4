# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes: forward, matching, losses, backward, optimiser; beside
it data loading, or the same step in another implementation.

    python tools/benchmark_training.py CONFIG [--batch-size 8] [--objects 60] [--size 640]
    python tools/benchmark_training.py CONFIG --peer transformers

With --peer both have the same weights, images, objects, batch, precision, device and optimiser,
and take turns, step by step. Before anything is timed their losses are compared term by term. Then
matching and losses are timed alone, on the same predictions.
"""

import argparse
import statistics
import time

import torch
from command_line import errors_in_one_line, positive
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.runner import Runner

import deim_mmdet  # noqa: F401  makes mmdet importable with mmcv-lite
from deim_mmdet.benchmark.from_config import dtype_of
from deim_mmdet.benchmark.report import mib, milliseconds, print_conditions, print_table
from deim_mmdet.benchmark.training_step import (
    PHASES,
    StepOptions,
    TrainingStep,
    build_step,
    median_of_phases,
    ratio_of_neighbours,
    take_turns,
)

HERE = 'deim_mmdet'


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', help='config file of a detector with a set-prediction head of this package'
    )
    parser.add_argument(
        '--size',
        type=positive,
        nargs='+',
        default=[640],
        help='height and width, or one side',
    )
    parser.add_argument('--batch-size', type=positive, default=8, help='images per step')
    parser.add_argument('--objects', type=int, default=60, help='objects per image')
    parser.add_argument('--steps', type=positive, default=5, help='timed steps')
    parser.add_argument('--warmup', type=int, default=1, help='steps before the timed ones')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help="with the config's mixed precision")
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--skip-loader', action='store_true', help='do not time data loading')
    parser.add_argument(
        '--peer', choices=('transformers',), help='time the same step there, too, in turns'
    )
    parser.add_argument(
        '--loss-objects',
        type=positive,
        nargs='*',
        default=(60, 200),
        help='with --peer: objects per image of matching and losses alone',
    )
    parser.add_argument('--skip-step', action='store_true', help='with --peer: time no step')
    parser.add_argument('--skip-memory', action='store_true', help='with --peer: no peak memory')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    return parser.parse_args(args)


def main(args=None) -> None:
    args = parse_args(args)
    MMLogger.get_instance('mmdet', log_level='WARNING')  # no line per initialised tensor
    with errors_in_one_line():
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options or {})
        (with_peer if args.peer else alone)(config, args)


def alone(config: Config, args) -> None:
    """Every phase and its share."""
    step = build_step(config, options_of(args))
    take_turns({HERE: step}, args.warmup, args.steps)
    loader = None
    if not args.skip_loader:
        try:
            loader = time_loader(config, args.warmup, args.steps)
        except FileNotFoundError as error:
            print(f'data loading is not timed: {error}')

    medians = median_of_phases(step)
    describe(args, step)
    rows = [
        (phase, milliseconds(medians[phase]), f'{medians[phase] / medians["step"]:.1%}')
        for phase in (*PHASES, 'step')
    ]
    if loader:
        rows.append(('data loading, beside the step', milliseconds(loader), ''))
    print_table(('phase', 'ms', 'share'), *rows)
    both = medians['matching'] + medians['losses']
    print(f'matching + losses take {both / medians["step"]:.2%} of a step')


def with_peer(config: Config, args) -> None:
    """Every phase here and there."""
    from deim_mmdet.benchmark.same_losses import same_losses, summary
    from deim_mmdet.benchmark.transformers_peer import transformers_step

    ours = build_step(config, options_of(args))
    theirs = transformers_step(config, ours)
    describe(args, ours)
    print(summary(same_losses(ours, theirs)))
    if not args.skip_step:
        take_turns({HERE: ours, args.peer: theirs}, args.warmup, args.steps)
        here, there = median_of_phases(ours), median_of_phases(theirs)
        here['losses'] += here.pop('matching')
        rows = [
            ('matching + losses' if phase == 'losses' else phase, *compared(here[phase], seconds))
            for phase, seconds in (
                (phase, there[phase]) for phase in (*PHASES, 'step') if phase in there
            )
        ]
        print_table(('phase, ms', HERE, args.peer, 'ratio'), *rows)
        print(f'median ratio of steps side by side: {ratio_of_neighbours(ours, theirs):.2f}')
    for objects in args.loss_objects:
        compare_losses(ours, theirs, objects, args)
    if not args.skip_memory:
        compare_memory(config, options_of(args), args.peer)


def compare_losses(ours: TrainingStep, theirs, objects: int, args) -> None:
    """Matching and losses alone, on the same predictions."""
    from deim_mmdet.benchmark.losses_alone import time_losses
    from deim_mmdet.benchmark.same_losses import summary

    terms, times = time_losses(ours.model, theirs.model, args.batch_size, objects, args.steps)
    print(f'\nmatching + losses alone, {objects} objects per image; {summary(terms)}')
    print_table(
        ('ms', HERE, args.peer, 'ratio'),
        *((name, *compared(here, there)) for name, (here, there) in times.items()),
    )


def compare_memory(config: Config, options: StepOptions, peer: str) -> None:
    """Each in a process of its own."""
    from deim_mmdet.benchmark.peak_memory import peak_of_step
    from deim_mmdet.benchmark.training_memory import apart

    peaks = [apart(peak_of_step, config, options, is_peer) for is_peer in (False, True)]
    print(
        f'\npeak of a step beyond what is in use between two: {mib(peaks[0])} MiB here, '
        f'{mib(peaks[1])} MiB in {peer}, ratio {peaks[0] / peaks[1]:.2f}'
    )


def options_of(args) -> StepOptions:
    if len(args.size) > 2:
        raise ValueError(f'--size takes height and width, or one side, got {args.size}')
    hw = tuple(args.size * 2)[:2]
    return StepOptions(hw, args.batch_size, args.objects, args.device, args.amp, args.seed)


def time_loader(config: Config, warmup: int, steps: int) -> float:
    """Seconds per batch of the config's own training data loader, workers included: median."""
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    seconds, start = [], time.perf_counter()
    for step, _ in enumerate(loader):
        seconds.append(time.perf_counter() - start)
        if step + 1 == warmup + steps:
            break
        start = time.perf_counter()
    return statistics.median(seconds[warmup:] or seconds)


def describe(args, step: TrainingStep) -> None:
    height, width = step.data['inputs'].shape[-2:]
    dtype = str(dtype_of(step.optim_wrapper)).replace('torch.', '')
    print_conditions(
        args.config,
        f'{args.batch_size} images of {height} x {width}, {args.objects} objects each, '
        f'{args.device}, {dtype}, median of {args.steps} steps',
    )


def compared(here: float, there: float) -> tuple:
    return milliseconds(here), milliseconds(there), f'{here / there:.2f}'


if __name__ == '__main__':
    main()
