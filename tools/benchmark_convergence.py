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
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch
from demo import say, write_atomically
from mmengine.config import DictAction

from deim_mmdet.benchmark.convergence_curves import (
    VARIANTS,
    Curves,
    Epoch,
    RunName,
    check_same_conditions,
    curves_to_csv,
    markdown_table,
    order_of_runs,
    summarize,
)
from deim_mmdet.benchmark.convergence_runs import PRESETS, Setup, epochs_of, folder_of, train
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits
from deim_mmdet.engine.progress_hook import format_seconds
from deim_mmdet.machine import Machine, versions
from deim_mmdet.visualization import plot_convergence

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two calls from one folder
    fcntl = None

CONFIGS = Path(__file__).resolve().parent.parent / 'configs' / 'deim'


def main(args=None) -> None:
    args = parse_args(args)
    if args.run:
        return run_one(Path(args.work_dir), RunName.parse(args.run), args.threads)
    setup = read_arguments(args)
    out = Path(args.work_dir)
    claim(out, setup)
    try:
        make_digits(out / 'data', DigitsOptions(**setup.digits()))
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    runs = order_of_runs(args.detectors, args.variants, args.seeds)
    failed = train_all(out, setup, runs, args)
    write_results(out, setup)
    say((out / 'table.md').read_text())
    for run in failed:
        print(f'error: {run} failed, see {log_of(out, run)}', file=sys.stderr)
    if failed:
        raise SystemExit(1)
    say(f'Written to {out}: table.md, curves.png, curves.csv')


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
    parser.add_argument('--run', help=argparse.SUPPRESS)  # what this program starts
    return parser.parse_args(args)


def read_arguments(args: argparse.Namespace) -> Setup:
    """The set-up; what is left out in ``args`` is filled in.

    Raises:
        SystemExit: If an argument is out of its range.
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
            raise SystemExit(f'error: {message}')
    names = ('preset', 'size', 'scenes', 'val_scenes', 'epochs', 'batch_size', 'cfg_options')
    return Setup(**{name: getattr(args, name) for name in names})


def unknown(what: str, given: Sequence[str], known: Sequence[str]) -> List[tuple]:
    message = 'unknown {} {!r}; those of this preset: {}'
    return [(x not in known, message.format(what, x, ', '.join(known))) for x in given]


def claim(out: Path, setup: Setup) -> None:
    """Make the folder one of this set-up, unless it is.

    Raises:
        SystemExit: If it holds something else.
    """
    file = out / 'setup.json'
    wanted = json.loads(json.dumps(asdict(setup)))
    if file.exists():
        there = json.loads(file.read_text()).get('setup', {})
        if there != wanted:
            differing = ', '.join(
                f'{key} is {there.get(key)}, asked for {wanted.get(key)}'
                for key in {**there, **wanted}
                if there.get(key) != wanted.get(key)
            )
            raise SystemExit(
                f'error: {out} holds runs of another set-up: {differing}. Choose another folder '
                '(--work-dir), or ask for that set-up to go on.'
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SystemExit(
            f'error: {out} holds something else than a benchmark of convergence; choose another '
            'folder (--work-dir).'
        )
    (out / 'runs').mkdir(parents=True)
    text = json.dumps(
        dict(setup=wanted, machine=str(Machine.here()), versions=versions()), indent=1
    )
    write_atomically(file, lambda path: Path(path).write_text(text))


def train_all(out: Path, setup: Setup, runs: List[RunName], args) -> List[RunName]:
    """Train what is not finished, ``args.jobs`` runs at once; those that failed."""
    lengths = {run: VARIANTS[run.variant].epochs(setup.epochs) for run in runs}
    begin = {run: len(finished_epochs(out, run)) for run in runs}
    waiting = deque(run for run in runs if begin[run] < lengths[run])
    running, failed = {}, []
    progress = Progress(begin, lengths)
    with sole_user(out) as lock, terminable():
        try:
            while waiting or running:
                while waiting and len(running) < args.jobs:
                    run = waiting.popleft()
                    running[run] = start(out, run, args.threads, lock)
                time.sleep(0.5)
                for run, process in list(running.items()):
                    ended = process.poll() is not None  # asked first: its last epoch is then there
                    progress.show(run, finished_epochs(out, run))
                    if ended:
                        del running[run]
                        if progress.done[run] == lengths[run]:
                            write_results(out, setup)
                        else:
                            failed.append(run)
                            print(f'{run} failed, see {log_of(out, run)}', flush=True)
        except KeyboardInterrupt:
            raise SystemExit('\nStopped. The same command goes on from here.') from None
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    return failed


def run_one(out: Path, run: RunName, threads: int) -> None:
    """What a process of :func:`start` does."""
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    torch.set_num_threads(threads)
    setup = Setup(**json.loads((out / 'setup.json').read_text())['setup'])
    train(CONFIGS, setup, run, out)


def start(out: Path, run: RunName, threads: int, lock: Optional[int]) -> subprocess.Popen:
    """A process of its own for a run. As long as it lives the folder is locked."""
    log = log_of(out, run)
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, __file__, '--work-dir', str(out), '--threads', str(threads)]
    with open(log, 'ab') as file:
        return subprocess.Popen(
            [*command, '--run', str(run)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS=str(threads)),
            pass_fds=[] if lock is None else [lock],
        )


@contextmanager
def sole_user(out: Path):
    """Refuse to work in a folder where another call, or a run that it left behind, does."""
    if fcntl is None:
        yield None
        return
    with open(out / '.lock', 'ab') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(
                f'error: another call is at work in {out}; wait for it, stop it, or choose '
                'another folder (--work-dir).'
            ) from None
        yield file.fileno()


@contextmanager
def terminable():
    """Let a request to end do what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """Prints a line for every epoch, with the time left."""

    def __init__(self, begin: Dict[RunName, int], lengths: Dict[RunName, int]) -> None:
        self.begin = begin
        self.lengths = lengths
        self.done = dict(begin)
        self.start = time.monotonic()

    def show(self, run: RunName, epochs: List[Epoch]) -> None:
        for epoch in epochs[self.done[run] :]:
            self.done[run] = epoch.epoch
            state = f'epoch {epoch.epoch}/{self.lengths[run]}  AP {epoch.AP:.3f}'
            print(f'{run}  {state}  {self.left()}', flush=True)

    def left(self) -> str:
        here = sum(self.done.values()) - sum(self.begin.values())
        left = sum(self.lengths.values()) - sum(self.done.values())
        seconds = (time.monotonic() - self.start) * left / max(here, 1)
        return f'{left} epochs left in all, about {format_seconds(seconds)}'


def finished_runs(out: Path, setup: Setup) -> Curves:
    """All that the folder holds, those of other calls too."""
    there = [RunName.parse(file.parent.name) for file in (out / 'runs').glob('*/epochs.csv')]
    seeds = sorted({run.seed for run in there})
    found = {}
    for run in order_of_runs(list(PRESETS[setup.preset].detectors), list(VARIANTS), seeds):
        epochs = finished_epochs(out, run)
        if len(epochs) == VARIANTS[run.variant].epochs(setup.epochs):
            found[run] = epochs
    return found


def finished_epochs(out: Path, run: RunName) -> List[Epoch]:
    try:
        return epochs_of(out, run)
    except ValueError as error:
        raise SystemExit(f'error: {error}') from None


def log_of(out: Path, run: RunName) -> Path:
    return folder_of(out, run) / 'log.txt'


def write_results(out: Path, setup: Setup) -> None:
    curves = finished_runs(out, setup)
    try:
        check_same_conditions(curves, same_images=PRESETS[setup.preset].workers == 0)
    except RuntimeError as error:
        raise SystemExit(f'error: {error}') from None
    summaries = summarize(curves)
    seeds = sorted({run.seed for run in curves})
    text = (
        f'{setup.scenes} scenes of {setup.size} x {setup.size}, {setup.epochs} epochs; seeds '
        f'{", ".join(map(str, seeds))}\n\n{markdown_table(summaries)}'
    )
    write_atomically(out / 'table.md', lambda path: Path(path).write_text(text))
    write_atomically(out / 'curves.csv', lambda path: Path(path).write_text(curves_to_csv(curves)))
    if summaries:
        panels = {
            detector: {VARIANTS[name].title: summary for name, summary in variants.items()}
            for detector, variants in summaries.items()
        }
        write_atomically(out / 'curves.png', lambda path: plot_convergence(panels, path))


if __name__ == '__main__':
    main()
