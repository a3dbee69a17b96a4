# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The folder that tools/benchmark_convergence.py works in: of one set-up, used by one call at a
time, with runs that are trained side by side and the results of those that are finished.

    setup.json                         what all runs share, written first
    data/                              the digits
    runs/NAME/epochs.csv, log.txt      of each run
    table.md, curves.csv, curves.png   of all finished runs
"""

import json
import os
import signal
import subprocess
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from deim_mmdet.engine.progress_hook import format_seconds
from deim_mmdet.machine import Machine, versions
from deim_mmdet.new_output import new_output, new_outputs
from deim_mmdet.visualization import plot_convergence

from .convergence_curves import (
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
from .convergence_runs import PRESETS, Setup, epochs_of, folder_of

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two calls from one folder
    fcntl = None


def claim(out: Path, setup: Setup) -> None:
    """Make the folder one of this set-up, unless it is.

    Raises:
        ValueError: If it holds something else.
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
            raise ValueError(
                f'{out} holds runs of another set-up: {differing}. Choose another folder '
                '(--work-dir), or ask for that set-up to go on.'
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f'{out} holds something else than a benchmark of convergence; choose another folder '
            '(--work-dir).'
        )
    with new_output(file) as path:
        content = dict(setup=wanted, machine=str(Machine.here()), versions=versions())
        path.write_text(json.dumps(content, indent=1))


def setup_of(out: Path) -> Setup:
    """The set-up that a folder was claimed for."""
    return Setup(**json.loads((out / 'setup.json').read_text())['setup'])


def train_all(
    out: Path, runs: Sequence[RunName], command: Sequence[str], jobs: int, threads: int
) -> List[RunName]:
    """Train what is not finished, each run in a process of its own.

    The processes end with this call, also when it is interrupted or asked to end (SIGTERM, which
    then raises KeyboardInterrupt); all runs can be continued.

    Args:
        out (Path): The folder, claimed.
        runs (Sequence[RunName]): In the order in which they begin.
        command (Sequence[str]): Program that trains the run whose name comes as last argument.
        jobs (int): Runs at once.
        threads (int): Of each process.

    Returns:
        list[RunName]: Those that failed.

    Raises:
        BlockingIOError: Another call is at work in the folder.
        ValueError: A file of a run is damaged, or finished runs cannot be compared.
    """
    epochs = setup_of(out).epochs
    lengths = {run: VARIANTS[run.variant].epochs(epochs) for run in runs}
    begin = {run: len(epochs_of(out, run)) for run in runs}
    waiting = deque(run for run in runs if begin[run] < lengths[run])
    running, failed = {}, []
    progress = Progress(begin, lengths)
    with sole_user(out) as lock, terminable():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running[run] = start(out, run, command, threads, lock)
                time.sleep(0.5)
                for run, process in list(running.items()):
                    ended = process.poll() is not None  # asked first: its last epoch is then there
                    progress.show(run, epochs_of(out, run))
                    if ended:
                        del running[run]
                        if progress.done[run] == lengths[run]:
                            write_results(out)
                        else:
                            failed.append(run)
                            print(f'{run} failed, see {log_of(out, run)}', flush=True)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    return failed


def start(
    out: Path, run: RunName, command: Sequence[str], threads: int, lock: Optional[int]
) -> subprocess.Popen:
    """A process of its own for a run. As long as it lives the folder is locked."""
    log = log_of(out, run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'ab') as file:
        return subprocess.Popen(
            [*command, str(run)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS=str(threads)),
            pass_fds=[] if lock is None else [lock],
        )


def log_of(out: Path, run: RunName) -> Path:
    return folder_of(out, run) / 'log.txt'


@contextmanager
def sole_user(out: Path):
    """Refuse to work in a folder where another call, or a run that it left behind, does.

    Yields:
        int | None: What processes that work in the folder, too, must inherit.

    Raises:
        BlockingIOError: Someone else is at work.
    """
    if fcntl is None:
        yield None
        return
    with open(out / '.lock', 'ab') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f'another call is at work in {out}; wait for it, stop it, or choose another folder '
                '(--work-dir).'
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


def write_results(out: Path) -> List[str]:
    """Write what all finished runs give.

    Returns:
        list[str]: table.md, curves.csv, and curves.png where a baseline is finished.

    Raises:
        ValueError: Runs differ in more than they are meant to.
    """
    setup, curves = setup_of(out), finished_runs(out)
    check_same_conditions(curves, same_images=PRESETS[setup.preset].workers == 0)
    summaries = summarize(curves)
    seeds = sorted({run.seed for run in curves})
    names = ['table.md', 'curves.csv', *(['curves.png'] if summaries else [])]
    with new_outputs([out / name for name in names], overwrite=True) as (table, csv, *picture):
        table.write_text(
            f'{setup.scenes} scenes of {setup.size} x {setup.size}, {setup.epochs} epochs; seeds '
            f'{", ".join(map(str, seeds))}\n\n{markdown_table(summaries)}'
        )
        csv.write_text(curves_to_csv(curves))
        for path in picture:
            panels = {
                detector: {VARIANTS[name].title: summary for name, summary in variants.items()}
                for detector, variants in summaries.items()
            }
            plot_convergence(panels, path)
    return names


def finished_runs(out: Path) -> Curves:
    """All that the folder holds, those of other calls too."""
    setup = setup_of(out)
    there = [RunName.parse(file.parent.name) for file in (out / 'runs').glob('*/epochs.csv')]
    seeds = sorted({run.seed for run in there})
    found = {}
    for run in order_of_runs(list(PRESETS[setup.preset].detectors), list(VARIANTS), seeds):
        epochs = epochs_of(out, run)
        if len(epochs) == VARIANTS[run.variant].epochs(setup.epochs):
            found[run] = epochs
    return found
