# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Train DEYO step by step on digits in scenes, and the same DEYO at once, and compare them.

Step by step: a YOLOv8 from scratch, then a decoder on its frozen backbone and neck. At once: the
network of the second stage from scratch, nothing frozen, on as many images as both stages. The two
ways run side by side, each on one thread: minutes on two CPU cores, and nothing but this repository
is needed.

Everything is written to a new folder, work_dirs/demo_deyo (work_dirs/demo_deyo-2, ... when it is
taken): metrics.json, ap_curve.png, at_once.log, and for each training a folder as tools/demo.py
leaves it, with checkpoint.pth and pictures/.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

import command_line  # noqa: F401  Ctrl-C in one line
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = dict(
    stage_one='configs/yolov8/yolov8_atto_digits.py',
    stage_two='configs/deyo/deyo_yolov8-atto_digits.py',
    at_once='configs/deyo/deyo_yolov8-atto_at-once_digits.py',
)
TITLES = dict(
    stage_one='stage 1: YOLOv8',
    stage_two='stage 2: DEYO on frozen stage 1',
    at_once='at once: DEYO from scratch',
)
SUMS = ('epochs', 'images', 'seconds')
PATIENCE = 10  # s, for a process to stop by itself and between two lines of progress


def main(args=None) -> None:
    args = parse_args(args)
    # imports PyTorch and mmdet, which takes seconds
    from demo import build_data, claim_folder, say, write_atomically

    start = time.monotonic()
    out = claim_folder(Path(args.work_dir))
    build_data(Config.fromfile(args.stage_one))  # before two processes want it
    started = []

    def begin(name: str, *options: str, **streams) -> subprocess.Popen:
        started.append(train(getattr(args, name), out / name, args.pictures, options, **streams))
        return started[-1]

    log = out / 'at_once.log'
    try:
        with log.open('w') as file:
            at_once = begin('at_once', stdout=file, stderr=subprocess.STDOUT)
        say(f'In the background: {TITLES["at_once"]} (log: {log})')
        say(f'Step by step, {TITLES["stage_one"]}')
        succeed(begin('stage_one'), 'the first stage; see above')
        say(f'Step by step, {TITLES["stage_two"]}')
        succeed(
            begin('stage_two', f'load_from={out / "stage_one/checkpoint.pth"}'),
            'the second stage; see above',
        )
        say(f'Waiting for {TITLES["at_once"]}')
        follow(at_once, log)
        succeed(at_once, f'training at once; see {log}')
    except KeyboardInterrupt:
        stop(started, PATIENCE)  # the interrupt has reached them as well
        raise SystemExit(f'\nStopped. What was finished is in {out}.') from None
    finally:
        stop(started)

    results = {name: json.loads((out / name / 'metrics.json').read_text()) for name in CONFIGS}
    rows = compare(results)
    draw_curves(results, out / 'ap_curve.png')
    text = json.dumps(
        dict(
            rows=rows,
            seconds=round(time.monotonic() - start, 1),
            **{key: results['at_once'][key] for key in ('machine', 'versions')},
        ),
        indent=2,
    )
    write_atomically(out / 'metrics.json', lambda path: Path(path).write_text(text))
    report(out, rows)


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, config in CONFIGS.items():
        option = '--' + name.replace('_', '-')
        parser.add_argument(option, default=str(ROOT / config), help=f'config of {TITLES[name]}')
    parser.add_argument('--work-dir', default='work_dirs/demo_deyo', help='folder of the results')
    parser.add_argument('--pictures', type=int, default=8, help='number of scenes to draw')
    return parser.parse_args(args)


def train(config: str, folder: Path, pictures: int, options, **streams) -> subprocess.Popen:
    """Start tools/demo.py: a process each, since mmengine keeps one run's state in a process."""
    command = [sys.executable, str(ROOT / 'tools/demo.py'), config, '--work-dir', str(folder)]
    command += ['--pictures', str(pictures)]
    if options:
        command += ['--cfg-options', *options]
    return subprocess.Popen(command, **streams)


def succeed(process: subprocess.Popen, what: str) -> None:
    if process.wait():
        raise SystemExit(f'error: exit code {process.returncode} of {what}.')


def follow(process: subprocess.Popen, log: Path) -> None:
    """Print the last line of a log now and then until its process ends."""
    while process.poll() is None:
        print((log.read_text(errors='replace').splitlines() or [''])[-1], flush=True)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass


def stop(processes: List[subprocess.Popen], patience: float = 0) -> None:
    """End processes, after so many seconds in which they may end by themselves."""
    end = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def compare(results: Dict[str, dict]) -> List[dict]:
    """The rows of the table: what was trained, on how many images, for how long, its AP."""
    one, two, at_once = (results[name] for name in CONFIGS)
    rows = [
        row(TITLES['stage_one'], one),
        row(TITLES['stage_two'], two),
        row('step by step: both stages', one, two),
        row(TITLES['at_once'], at_once),
    ]
    for entry in at_once['history']:
        if entry['epoch'] == two['epochs']:
            share = entry['epoch'] / at_once['epochs']
            taken = {key: round(rows[-1][key] * share) for key in SUMS}
            rows.append(dict(rows[-1], title='  after as many as stage 2', **taken))
            rows[-1].update(AP=entry['AP'], AP50=entry['AP50'])
    return rows


def row(title: str, *trainings: dict) -> dict:
    """Trainings one after the other: the sum of what they took, and what the last one reached."""
    taken = (
        (training['epochs'], training['images']['seen'], round(training['seconds']['training']))
        for training in trainings
    )
    reached = {key: trainings[-1][key] for key in ('parameters', 'AP', 'AP50')}
    return dict(title=title, **dict(zip(SUMS, map(sum, zip(*taken)))), **reached)


def draw_curves(results: Dict[str, dict], file: Path) -> None:
    """AP of all three over epochs; the second stage begins where the first one ends."""
    from demo import write_atomically

    from deim_mmdet.visualization import plot_ap_curve

    begin = dict(stage_one=0, stage_two=results['stage_one']['epochs'], at_once=0)
    curves = {
        TITLES[name]: {begin[name] + entry['epoch']: entry['AP'] for entry in result['history']}
        for name, result in results.items()
    }
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    values = {
        title: [curve.get(epoch, math.nan) for epoch in epochs] for title, curve in curves.items()
    }
    title = f'{results["at_once"]["images"]["val"]} held-out scenes'
    write_atomically(file, lambda path: plot_ap_curve(epochs, values, path, title))


def report(out: Path, rows: List[dict]) -> None:
    from demo import say

    table = Table(title='Digits in scenes')
    for column in ('', 'parameters', *SUMS, 'AP', 'AP50'):
        table.add_column(column, justify='right' if column else 'left', no_wrap=True)
    for entry in rows:
        table.add_row(
            entry['title'],
            *(f'{entry[key]:,}' for key in ('parameters', *SUMS)),
            *(f'{entry[key]:.3f}' for key in ('AP', 'AP50')),
        )
    print()
    Console(width=100).print(table)
    say('Look at')
    for path, what in (
        (out / 'stage_two/pictures', 'ground truth (left) beside predictions (right)'),
        (out / 'ap_curve.png', 'AP of all after each epoch'),
        (out / 'metrics.json', 'the table and more'),
        (out / 'stage_two/checkpoint.pth', 'the model of both stages'),
    ):
        print(f'  {str(path):44} {what}')


if __name__ == '__main__':
    main()
