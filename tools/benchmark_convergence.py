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
import zlib
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from demo import say, write_atomically
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

from deim_mmdet.convergence import (
    VARIANTS,
    Curves,
    Epoch,
    RunName,
    check_same_conditions,
    curves_to_csv,
    epochs_to_csv,
    markdown_table,
    order_of_runs,
    read_epochs,
    summarize,
)
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits
from deim_mmdet.engine.progress_hook import format_seconds
from deim_mmdet.engine.recipe import scale_epoch, set_epochs
from deim_mmdet.engine.same_conditions_hook import SameConditionsHook
from deim_mmdet.machine import Machine, versions
from deim_mmdet.visualization import plot_convergence

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two calls from one folder
    fcntl = None

CONFIGS = Path(__file__).resolve().parent.parent / 'configs' / 'deim'
# Stages of DEIM-D-FINE-L: mosaics begin and end, all augmentation ends, length of the run.
PUBLISHED_STAGES = (4, 29, 50, 58)
VARIFOCAL = dict(type='IoUVarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0)  # as published


@dataclass(frozen=True)
class Preset:
    """Models, and what the options default to; ``digit_size`` is a share of the image's side."""

    detectors: Dict[str, str]
    changes: dict  # to their configs
    size: int
    scenes: int
    val_scenes: int
    objects: Tuple[int, int]
    digit_size: Tuple[float, float]
    epochs: int
    batch_size: int
    jobs: int
    workers: int


PRESETS = dict(
    cpu=Preset(
        detectors={
            'dfine-atto': 'deim_dfine_hgnetv2-atto_digits.py',
            'rtdetrv2-atto': 'deim_rtdetrv2_hgnetv2-atto_digits.py',
        },
        # half the time of a step; a mosaic with MixUp has 32 objects at most, 9 on average
        changes={
            'model.num_queries': 40,
            'model.denoising.num_queries': 20,
            'model.decoder.num_layers': 2,
            'model.test_cfg.max_per_img': 40,
        },
        size=96,
        scenes=640,
        val_scenes=200,
        objects=(1, 4),
        digit_size=(0.19, 0.5),
        epochs=12,
        batch_size=8,
        jobs=2,
        workers=0,
    ),
    gpu=Preset(
        detectors={
            'dfine-n': 'deim_dfine_hgnetv2-n_digits.py',
            'dfine-s': 'deim_dfine_hgnetv2-s_digits.py',
            'rtdetrv2-r18': 'deim_rtdetrv2_r18vd_digits.py',
        },
        changes={'optim_wrapper.type': 'AnyDeviceAmpOptimWrapper'},  # bfloat16
        size=320,
        scenes=10_000,
        val_scenes=1000,
        objects=(2, 10),
        digit_size=(0.08, 0.4),
        epochs=24,
        batch_size=32,
        jobs=4,  # so small models leave most of a GPU to others
        workers=4,
    ),
)


@dataclass(frozen=True)
class Setup:
    """What all runs of a folder share."""

    preset: str
    size: int
    scenes: int
    val_scenes: int
    epochs: int
    batch_size: int
    cfg_options: dict

    def digits(self) -> dict:
        preset = PRESETS[self.preset]
        return dict(
            num_train=self.scenes,
            num_val=self.val_scenes,
            image_hw=(self.size, self.size),
            objects=preset.objects,
            digit_size=tuple(max(16, round(share * self.size)) for share in preset.digit_size),
        )


def main(args=None) -> None:
    args = parse_args(args)
    if args.run:
        return train(Path(args.work_dir), RunName.parse(args.run), args.threads)
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
    begin = {run: len(epochs_of(out, run)) for run in runs}
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
                    progress.show(run, epochs_of(out, run))
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
    there = [RunName.parse(folder.name) for folder in (out / 'runs').iterdir()]
    seeds = sorted({run.seed for run in there})
    found = {}
    for run in order_of_runs(list(PRESETS[setup.preset].detectors), list(VARIANTS), seeds):
        epochs = epochs_of(out, run)
        if len(epochs) == VARIANTS[run.variant].epochs(setup.epochs):
            found[run] = epochs
    return found


def epochs_of(out: Path, run: RunName) -> List[Epoch]:
    try:
        return read_epochs(out / 'runs' / str(run) / 'epochs.csv')
    except ValueError as error:
        raise SystemExit(f'error: {error}') from None


def log_of(out: Path, run: RunName) -> Path:
    return out / 'runs' / str(run) / 'log.txt'


def write_results(out: Path, setup: Setup) -> None:
    curves = finished_runs(out, setup)
    check_same_conditions(curves, same_images=PRESETS[setup.preset].workers == 0)
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


def train(out: Path, run: RunName, threads: int) -> None:
    """One run, from its last finished epoch on."""
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    torch.set_num_threads(threads)
    setup = Setup(**json.loads((out / 'setup.json').read_text())['setup'])
    folder = out / 'runs' / str(run)
    cfg = build_config(setup, run, out / 'data', folder / 'training')
    epochs = resumable(read_epochs(folder / 'epochs.csv'), Path(cfg.work_dir))
    if epochs:
        cfg.load_from, cfg.resume = str(checkpoint(Path(cfg.work_dir), len(epochs))), True
    runner = Runner.from_cfg(cfg)
    conditions = SameConditionsHook(run.seed)
    runner.register_hook(conditions)
    runner.register_hook(EpochFileHook(folder / 'epochs.csv', epochs, conditions))
    runner.train()
    for file in Path(cfg.work_dir).glob('*.pth'):
        file.unlink()


def resumable(epochs: List[Epoch], folder: Path) -> List[Epoch]:
    """The epochs that are evaluated and have a checkpoint to go on from.

    A checkpoint is written before its evaluation: one without would leave a gap.
    """
    while epochs and not checkpoint(folder, len(epochs)).exists():
        epochs = epochs[:-1]
    return epochs


def checkpoint(folder: Path, epoch: int) -> Path:
    return folder / f'epoch_{epoch}.pth'


class EpochFileHook(Hook):
    """Writes the file of a run anew after each evaluation."""

    priority = 'LOWEST'  # the checkpoint of the epoch is final

    def __init__(self, file: Path, epochs: List[Epoch], conditions: SameConditionsHook) -> None:
        self.file = file
        self.epochs = list(epochs)
        self.conditions = conditions

    def before_train(self, runner: Runner) -> None:
        self.weights_crc32 = (
            self.epochs[0].weights_crc32 if self.epochs else check_sum(runner.model)
        )
        runner.model.data_preprocessor.register_forward_hook(
            lambda module, args, batch: self._count(batch) if runner.model.training else None
        )

    def before_train_epoch(self, runner: Runner) -> None:
        self.begin = time.monotonic(), time.process_time()
        self.objects = self.images = 0
        self.conditions.images_crc32 = self.conditions.order_crc32 = 0

    def _count(self, batch: dict) -> None:
        self.objects += sum(len(sample.gt_instances) for sample in batch['data_samples'])
        self.images += len(batch['data_samples'])

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        self.epochs.append(
            Epoch(
                epoch=runner.epoch,
                AP=float(metrics['coco/bbox_mAP']),
                AP50=float(metrics['coco/bbox_mAP_50']),
                AP75=float(metrics['coco/bbox_mAP_75']),
                objects_per_image=self.objects / self.images,
                seconds=time.monotonic() - self.begin[0],
                cpu_seconds=time.process_time() - self.begin[1],
                weights_crc32=self.weights_crc32,
                order_crc32=self.conditions.order_crc32,
                images_crc32=self.conditions.images_crc32,
            )
        )
        text = epochs_to_csv(self.epochs)
        write_atomically(self.file, lambda path: Path(path).write_text(text))


def check_sum(model: torch.nn.Module) -> int:
    crc = 0
    for value in model.state_dict().values():
        if isinstance(value, torch.Tensor):
            crc = zlib.crc32(value.cpu().contiguous().numpy().tobytes(), crc)
    return crc


def build_config(setup: Setup, run: RunName, data_root: Path, work_dir: Path) -> Config:
    """The config of DEIM on digits, without what the variant does not have."""
    preset, variant = PRESETS[setup.preset], VARIANTS[run.variant]
    cfg = Config.fromfile(CONFIGS / preset.detectors[run.detector])
    set_data(cfg, setup, data_root)
    cfg = set_schedule(cfg, variant.epochs(setup.epochs))
    cfg.merge_from_dict(preset.changes)
    cfg.merge_from_dict(setup.cfg_options)
    if not variant.dense_o2o:
        preprocessor = cfg.model.data_preprocessor
        preprocessor.batch_augments = [
            augment for augment in preprocessor.batch_augments if augment.type != 'BatchMixUp'
        ] or None
        dense_o2o_of(cfg).mosaic_prob = 0
    if not variant.mal:
        cfg.model.bbox_head.loss_cls = dict(VARIFOCAL)
    # the epoch before, too, if a stop comes between a checkpoint and its evaluation
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = str(run)
    cfg.randomness = dict(seed=run.seed)  # of the first weights and the order of the images
    return cfg


def set_data(cfg: Config, setup: Setup, data_root: Path) -> None:
    workers = PRESETS[setup.preset].workers
    digits = dict(data_root=str(data_root), options=setup.digits())
    train, val = cfg.train_dataloader, cfg.val_dataloader
    train.dataset.dataset.update(digits)
    val.dataset.update(digits)
    train.batch_size = setup.batch_size
    for loader in (train, val):
        loader.update(num_workers=workers, persistent_workers=workers > 0, pin_memory=workers > 0)
    dense_o2o_of(cfg).mosaic[0].short_side = setup.size // 2
    for transform in (*train.dataset.pipeline, *val.dataset.pipeline):
        if transform.type == 'Resize':
            transform.scale = (setup.size, setup.size)
    cfg.val_evaluator.ann_file = str(data_root / 'annotations' / 'val.json')
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None


def set_schedule(cfg: Config, epochs: int) -> Config:
    """Another length, with the stages of the published run of DEIM-D-FINE-L."""
    cfg = set_epochs(cfg, epochs)
    *published, length = PUBLISHED_STAGES
    stages = tuple(scale_epoch(epoch, length, epochs) for epoch in published)
    mosaic_begin, mosaic_end, plain_end = stages
    cfg.default_hooks.dense_o2o.stages = stages
    cfg.default_hooks.two_stage_end.begin = max(1, plain_end)  # a first stage, to go back to
    cfg.param_scheduler.update(flat_until=mosaic_end, no_aug=epochs - plain_end)
    shown = dict(mosaic_begin=mosaic_begin, mosaic_end=mosaic_end, plain_end=plain_end)
    cfg.update(shown, no_aug_epochs=epochs - plain_end)
    return cfg


def dense_o2o_of(cfg: Config) -> dict:
    return next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'DenseO2O')


if __name__ == '__main__':
    main()
