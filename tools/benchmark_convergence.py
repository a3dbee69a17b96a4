# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Does DEIM converge in half the epochs? Trains with and without its two parts, and compares.

    python tools/benchmark_convergence.py                 # two CPU cores
    python tools/benchmark_convergence.py --preset gpu    # larger models, images and sets, bfloat16

D-FINE and RT-DETRv2 on digits in scenes, each as it is (baseline), with Dense O2O, with the
Matchability-Aware Loss, with both (DEIM), and with both in half the epochs. The runs of a seed
begin with the same weights and see the images in the same order; learning rate, schedule and
activations are those of DEIM in all. After every epoch AP is measured.

The folder of results holds table.md, curves.png, curves.csv, setup.json, and runs/, where every run
keeps its epochs and its log. The command may be stopped at any time: the same command goes on where
it was. With more seeds it adds them.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import List, Sequence

import torch
from command_line import errors_in_one_line
from mmengine.config import DictAction

from deim_mmdet.benchmark.convergence_curves import VARIANTS, RunName, order_of_runs
from deim_mmdet.benchmark.convergence_folder import (
    claim,
    log_of,
    setup_of,
    train_all,
    write_results,
)
from deim_mmdet.benchmark.convergence_runs import PRESETS, Setup, train
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits

CONFIGS = Path(__file__).resolve().parent.parent / 'configs' / 'deim'


def main(args=None) -> None:
    args = parse_args(args)
    out = Path(args.work_dir)
    if args.run:
        return train_one(out, RunName.parse(args.run), args.threads)
    with errors_in_one_line('\nStopped. The same command goes on from here.'):
        setup = read_arguments(args)
        claim(out, setup)
        make_digits(out / 'data', DigitsOptions(**setup.digits()))
        runs = order_of_runs(args.detectors, args.variants, args.seeds)
        command = [sys.executable, __file__, '--work-dir', str(out), '--threads', str(args.threads)]
        failed = train_all(out, runs, [*command, '--run'], args.jobs, args.threads)
        written = write_results(out)
    print(f'\n{(out / "table.md").read_text()}')
    for run in failed:
        print(f'error: {run} failed, see {log_of(out, run)}', file=sys.stderr)
    if failed:
        raise SystemExit(1)
    print(f'\nWritten to {out}: {", ".join(written)}')


def train_one(out: Path, run: RunName, threads: int) -> None:
    """What each process of :func:`train_all` does."""
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    torch.set_num_threads(threads)
    train(CONFIGS, setup_of(out), run, out)


def parse_args(args=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--preset', choices=PRESETS, default='cpu', help='models and defaults')
    parser.add_argument('--detectors', nargs='+', help='some of those of the preset')
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), help='some of them')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='runs of each')
    parser.add_argument('--epochs', type=int, help='length of the runs')
    parser.add_argument('--size', type=int, help='side of the images in pixels')
    parser.add_argument('--scenes', type=int, help='training images')
    parser.add_argument('--val-scenes', type=int, help='images to measure AP with')
    parser.add_argument('--batch-size', type=int, help='images of a step')
    parser.add_argument('--jobs', type=int, help='runs at once')
    parser.add_argument('--threads', type=int, default=1, help='threads of a run')
    parser.add_argument('--work-dir', default='work_dirs/convergence', help='folder of the results')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='changes to all configs'
    )
    parser.add_argument('--run', help=argparse.SUPPRESS)  # see train_one
    return parser.parse_args(args)


def read_arguments(args: argparse.Namespace) -> Setup:
    """The set-up; what is left out in ``args`` is filled in.

    Raises:
        ValueError: If an argument is out of its range.
    """
    preset = PRESETS[args.preset]
    args.detectors = args.detectors or list(preset.detectors)
    for name in ('epochs', 'size', 'scenes', 'val_scenes', 'batch_size', 'jobs'):
        if getattr(args, name) is None:
            setattr(args, name, getattr(preset, name))
    for wrong, message in (
        *unknown('detector', args.detectors, preset.detectors),
        *unknown('variant', args.variants, VARIANTS),
        (
            args.epochs < 2,
            f'--epochs must be at least 2, so that there are epochs to compare, got {args.epochs}',
        ),
        (
            args.size < 64 or args.size % 32,
            f'--size must be a multiple of 32 and at least 64, got {args.size}',
        ),
        (
            min(args.scenes, args.batch_size) < 2 or args.scenes < args.batch_size,
            'an epoch needs at least one batch of two images: --scenes must be at least '
            f'--batch-size, got --scenes {args.scenes} --batch-size {args.batch_size}',
        ),
        (args.val_scenes < 1, f'--val-scenes must be at least 1, got {args.val_scenes}'),
        (args.jobs < 1, f'--jobs must be at least 1, got {args.jobs}'),
        (args.threads < 1, f'--threads must be at least 1, got {args.threads}'),
        (min(args.seeds) < 0, f'--seeds must be 0 or greater, got {args.seeds}'),
        (len(set(args.seeds)) < len(args.seeds), f'--seeds must differ, got {args.seeds}'),
    ):
        if wrong:
            raise ValueError(message)
    names = ('preset', 'size', 'scenes', 'val_scenes', 'epochs', 'batch_size', 'cfg_options')
    return Setup(**{name: getattr(args, name) for name in names})


def unknown(what: str, given: Sequence[str], known: Sequence[str]) -> List[tuple]:
    message = 'unknown {} {!r}; those of this preset: {}'
    return [(x not in known, message.format(what, x, ', '.join(known))) for x in given]


if __name__ == '__main__':
    main()
