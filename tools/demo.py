# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Train DEIM on digits in scenes, evaluate it on held-out scenes, and draw what it finds.

Takes minutes on two CPU cores and needs nothing but this repository. Everything is written to a new
folder, work_dirs/demo (work_dirs/demo-2, ... when it is taken): checkpoint.pth, config.py,
metrics.json, ap_curve.png, pictures/.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from deim_mmdet.datasets.config_checks import find_datasets
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits
from deim_mmdet.machine import versions
from deim_mmdet.visualization import compare_with_truth, plot_ap_curve

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'configs/deim/deim_dfine_hgnetv2-atto_digits.py'


def main(args=None) -> None:
    args = parse_args(args)
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    warnings.filterwarnings('ignore', message='torch.meshgrid')  # mmdet's grids of cells
    start = time.monotonic()
    torch.set_num_threads(args.threads)
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    out = claim_folder(Path(args.work_dir))
    cfg.work_dir = str(out / 'training')

    say(f'1/4  Data: real handwritten digits on photographs ({data_roots(cfg)})')
    build_data(cfg)
    data_end = time.monotonic()

    say(f'2/4  Training {Path(args.config).name} for {cfg.train_cfg.max_epochs} epochs')
    try:
        history, num_parameters, num_train = train(cfg)
    except KeyboardInterrupt:
        raise SystemExit(stopped(Path(cfg.work_dir))) from None
    train_end = time.monotonic()

    say('3/4  Evaluating the checkpoint on held-out scenes')
    checkpoint = keep_checkpoint(Path(cfg.work_dir), out)
    write_atomically(out / 'config.py', lambda path: cfg.dump(path))
    metrics, num_val = evaluate(cfg, checkpoint)
    evaluation_end = time.monotonic()

    say('4/4  Drawing predictions beside the ground truth')
    pictures = draw_pictures(cfg, checkpoint, out / 'pictures', args.pictures)
    epochs = [entry['epoch'] for entry in history]
    curves = {name: [entry[name] for entry in history] for name in ('AP', 'AP50')}
    write_atomically(
        out / 'ap_curve.png',
        lambda path: plot_ap_curve(epochs, curves, path, f'{num_val} held-out scenes'),
    )
    result = dict(
        **metrics,
        seconds=dict(
            data=round(data_end - start, 1),
            training=round(train_end - data_end, 1),
            evaluation=round(evaluation_end - train_end, 1),
            total=round(time.monotonic() - start, 1),
        ),
        images=dict(train=num_train, val=num_val, seen=num_train * cfg.train_cfg.max_epochs),
        epochs=cfg.train_cfg.max_epochs,
        parameters=num_parameters,
        history=history,
        config=Path(args.config).name,
        checkpoint='checkpoint.pth',
        machine=describe_machine(),
        versions=versions(),
    )
    text = json.dumps(result, indent=2)
    write_atomically(out / 'metrics.json', lambda path: Path(path).write_text(text))
    report(out, result, pictures)


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', nargs='?', default=str(CONFIG), help='a config on digits in scenes'
    )
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder of the results')
    parser.add_argument('--pictures', type=int, default=8, help='number of scenes to draw')
    # Two threads wait for each other several hundred times per step. On idle cores that is
    # 1.5 times as fast as one; next to any other busy program it is many times slower.
    parser.add_argument('--threads', type=int, default=1, help='threads that train')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    return parser.parse_args(args)


def claim_folder(wanted: Path) -> Path:
    """Create ``wanted``, or the first of ``wanted-2``, ``wanted-3``, ... that is free."""
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f'{wanted.name}-{number}')
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if folder.is_dir() and not any(folder.iterdir()):
                return folder
        number += 1


def data_roots(cfg: Config) -> str:
    found = (
        d for mode in ('train', 'val') for d in find_datasets(cfg[f'{mode}_dataloader'].dataset)
    )
    return ', '.join(
        dict.fromkeys(str(dataset.get('data_root', 'data/digits')) for dataset in found)
    )


def build_data(cfg: Config) -> None:
    for mode in ('train', 'val'):
        for dataset in find_datasets(cfg[f'{mode}_dataloader'].dataset):
            if dataset.type == 'DigitsInScenes':
                options = DigitsOptions(**(dataset.get('options') or {}))
                make_digits(dataset.get('data_root', 'data/digits'), options)


def train(cfg: Config):
    """Train; the AP of each evaluation, the number of parameters, the number of training images."""
    hooks = cfg.get('custom_hooks') or []
    if not any(hook['type'] == 'RichProgressHook' for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type='RichProgressHook')]
    with quiet_console():
        runner = Runner.from_cfg(cfg)
        history = HistoryHook()
        runner.register_hook(history, priority='VERY_LOW')
        runner.train()
    num_parameters = sum(p.numel() for p in runner.model.parameters())
    return history.entries, num_parameters, len(runner.train_dataloader.dataset)


class HistoryHook(Hook):
    """Keep the AP of each evaluation."""

    def __init__(self) -> None:
        self.entries = []

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.entries.append(dict(epoch=runner.epoch, **shorten_metrics(metrics or {})))


def shorten_metrics(metrics: dict) -> dict:
    names = dict(AP='bbox_mAP', AP50='bbox_mAP_50', AP75='bbox_mAP_75')
    return {name: float(metrics.get(f'coco/{key}', -1)) for name, key in names.items()}


class quiet_console:
    """Let mmengine's console log show warnings only; its log file keeps everything."""

    def __enter__(self):
        self._created = MMLogger.__init__

        def create(logger, *args, **kwargs):
            self._created(logger, *args, **kwargs)
            for handler in logger.handlers:
                if type(handler) is logging.StreamHandler:
                    handler.setLevel(logging.WARNING)
                    handler.addFilter(_is_of_use)

        MMLogger.__init__ = create

    def __exit__(self, *error):
        MMLogger.__init__ = self._created


def _is_of_use(record: logging.LogRecord) -> bool:
    # mmengine warns of its own use of names that it deprecated.
    return not str(record.msg).startswith(('"FileClient"', '"HardDiskBackend"'))


def keep_checkpoint(training: Path, out: Path) -> Path:
    """Copy the best checkpoint, or the last where none is marked best, to ``out``."""
    best = sorted(training.glob('best_*_epoch_*.pth'), key=os.path.getmtime)
    last = training / 'last_checkpoint'
    if not best and not last.exists():
        raise SystemExit(f'error: training left no checkpoint in {training}; see the log there.')
    source = best[-1] if best else Path(last.read_text().strip())
    target = out / 'checkpoint.pth'
    write_atomically(target, lambda path: shutil.copyfile(source, path))
    return target


def evaluate(cfg: Config, checkpoint: Path):
    """AP of the written file, loaded anew, and the number of images."""
    cfg = Config(cfg.to_dict())
    cfg.update(load_from=str(checkpoint), resume=False, custom_hooks=[])
    cfg.experiment_name = cfg.visualizer.name = 'evaluation'  # one of each name in a process
    for part in ('dataloader', 'evaluator'):
        cfg[f'test_{part}'] = cfg[f'val_{part}']
    cfg.test_cfg = dict(type='TestLoop')
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg[part] = None
    for part in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg[part] = None
    with quiet_console():
        runner = Runner.from_cfg(cfg)
        metrics = runner.test()
    return shorten_metrics(metrics), len(runner.test_dataloader.dataset)


def draw_pictures(cfg: Config, checkpoint: Path, folder: Path, number: int):
    # With mmcv-lite this import works after that of deim_mmdet only.
    from mmdet.apis import inference_detector, init_detector

    device = 'cuda:0' if torch.cuda.is_available() else 'cpu'
    model = init_detector(cfg, str(checkpoint), device=device)
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, test_mode=True))
    meta = dataset.metainfo
    folder.mkdir()
    files = []
    for index in np.linspace(0, len(dataset) - 1, min(number, len(dataset))).astype(int):
        info = dataset.get_data_info(int(index))
        found = inference_detector(model, info['img_path']).pred_instances.numpy()
        picture = compare_with_truth(
            cv2.imread(info['img_path']),
            np.array([instance['bbox'] for instance in info['instances']]).reshape(-1, 4),
            [instance['bbox_label'] for instance in info['instances']],
            found.bboxes,
            found.labels,
            found.scores,
            meta['classes'],
            meta['palette'],
        )
        files.append(folder / Path(info['img_path']).with_suffix('.jpg').name)
        encoded = cv2.imencode('.jpg', picture)[1].tobytes()
        write_atomically(files[-1], lambda path, data=encoded: Path(path).write_bytes(data))
    return files


def stopped(folder: Path) -> str:
    if any(folder.glob('*.pth')):
        return f'\nStopped. Checkpoints so far are in {folder}.'
    return '\nStopped before the first checkpoint.'


def write_atomically(path: Path, write) -> None:
    """Let ``write`` fill a file beside ``path``, then move it there: no reader sees half of it."""
    part = path.with_name(f'.part-{path.name}')
    try:
        write(str(part))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def describe_machine() -> dict:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(gpu=gpu, cpu_count=os.cpu_count(), torch_threads=torch.get_num_threads())


def say(text: str) -> None:
    print(f'\n{text}', flush=True)


def report(out: Path, result: dict, pictures) -> None:
    seconds = result['seconds']
    say(
        f'AP {result["AP"]:.3f}, AP50 {result["AP50"]:.3f} on {result["images"]["val"]} held-out '
        f'scenes after {result["epochs"]} epochs; {seconds["training"] / 60:.1f} minutes of '
        f'training, {seconds["total"] / 60:.1f} in all.'
    )
    say('Look at')
    for path, what in (
        (pictures[0].parent if pictures else out, 'ground truth (left) beside predictions (right)'),
        (out / 'ap_curve.png', 'AP after each epoch'),
        (out / 'metrics.json', 'all numbers'),
        (out / 'checkpoint.pth', 'the trained model'),
    ):
        print(f'  {str(path):36} {what}')
    python = os.path.relpath(sys.executable)
    python = sys.executable if python.startswith('..') else python
    say('Next')
    print('  Train on your own data in COCO format:')
    print(f'    {python} tools/train_custom.py TRAIN.json VAL.json IMAGE_FOLDER')
    print('  Evaluate this model again:')
    print(f'    {python} tools/test.py {out / "config.py"} {out / "checkpoint.pth"}')


if __name__ == '__main__':
    main()
