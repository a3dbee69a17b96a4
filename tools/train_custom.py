# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Train on your own data in COCO format: one command, three paths.

    python tools/train_custom.py TRAIN.json VAL.json IMAGE_FOLDER
    python tools/train_custom.py TRAIN.json VAL.json IMAGE_FOLDER --load-from CHECKPOINT

Takes the classes from TRAIN.json, sets the model to their number, checks the annotation files and
the images, and trains. With --load-from it fine-tunes: by the settings of
configs/_base_/schedules/finetune.py, and with the class rows of the checkpoint (ours, or a
published one) for all classes that have the same name there. The configuration it trains is written
beside the checkpoints, to be tested, resumed (mmdet's tools take it) or edited.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import List

from command_line import positive
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import deim_mmdet  # noqa: F401
from deim_mmdet.datasets.checks import Problem
from deim_mmdet.datasets.config_checks import (
    CheckedFiles,
    check_config,
    check_images,
    skip_unreadable,
    use_coco_files,
)
from deim_mmdet.engine.recipe import find_hook, set_epochs, use_recipe

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'configs/deim/deim_dfine_hgnetv2-n_8xb16-160e_coco.py'
FINETUNE = ROOT / 'configs/_base_/schedules/finetune.py'


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('train_ann', help='COCO-format annotation file to train on')
    parser.add_argument('val_ann', help='COCO-format annotation file to evaluate on')
    parser.add_argument('images', help='folder that the file names in both start from')
    parser.add_argument('--val-images', help='folder of VAL.json, where it is another one')
    parser.add_argument('--config', default=str(CONFIG), help='configuration to start from')
    parser.add_argument('--work-dir', help='defaults to work_dirs/custom_<name of TRAIN.json>')
    parser.add_argument(
        '--load-from', help='checkpoint to fine-tune: needs fewer images and epochs'
    )
    parser.add_argument(
        '--keep-schedule',
        action='store_true',
        help='train as the config says, with --load-from too',
    )
    parser.add_argument(
        '--epochs', type=int, help='length of the run; all that counts in epochs follows'
    )
    parser.add_argument('--classes', nargs='+', help='classes to learn, of those in TRAIN.json')
    parser.add_argument(
        '--skip-unreadable', action='store_true', help='train without the images that are damaged'
    )
    parser.add_argument(
        '--no-image-check', action='store_true', help='do not open the images before training'
    )
    parser.add_argument(
        '--pretrained-backbone',
        action='store_true',
        help='begin with the backbone weights that the config names, which are downloaded',
    )
    parser.add_argument('--batch-size', type=positive, help='images per batch on each device')
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint there'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(args)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main(args=None) -> int:
    args = parse_args(args)
    try:
        cfg = configure(args)
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    checked, problems = check_config(cfg)
    problems = problems + [problem for files in checked for problem in files.problems]
    if not args.no_image_check and os.environ.get('RANK', '0') == '0':
        problems += [problem for files in checked for problem in check_images(files)]
    problems += shared_images(checked)
    for problem in problems:
        print(f'{problem.level}: {problem}', flush=True)
    if any(problem.level == 'error' for problem in problems):
        print('Nothing was trained.')
        return 1
    batch = cfg.train_dataloader.batch_size * int(os.environ.get('WORLD_SIZE', 1))
    for files in checked:
        if files.mode == 'train' and files.content and len(files.content.images) < batch:
            raise SystemExit(
                f'error: {files.ann_file} has {len(files.content.images)} images, but a batch '
                f'takes {batch}: set a smaller --batch-size.'
            )
    Runner.from_cfg(cfg).train()
    return 0


def configure(args) -> Config:
    work_dir = args.work_dir or os.path.join('work_dirs', f'custom_{Path(args.train_ann).stem}')
    trained = find_checkpoints(work_dir)
    resumable = (Path(work_dir) / 'last_checkpoint').is_file()  # names what mmengine resumes
    resume = args.resume and resumable
    # of several processes the first may have begun to write there already
    if trained and not resume and os.environ.get('RANK', '0') == '0':
        raise FileExistsError(
            f'{work_dir} holds an earlier run ({trained[0].name}, ...). Name another folder with '
            f'--work-dir{", or go on with --resume" if resumable else ""}.'
        )
    written = Path(work_dir) / Path(args.config).name
    go_on = resume and written.is_file()
    cfg = Config.fromfile(written if go_on else args.config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    cfg = use_coco_files(
        cfg, args.train_ann, args.val_ann, args.images, args.val_images, args.classes
    )
    if args.load_from and not args.keep_schedule and not go_on:
        cfg = use_recipe(cfg, Config.fromfile(FINETUNE))
    if args.epochs is not None:
        cfg = set_epochs(cfg, args.epochs)
    if args.skip_unreadable:
        cfg = skip_unreadable(cfg)
    if args.batch_size:
        cfg.train_dataloader.batch_size = args.batch_size
    if cfg.get('auto_scale_lr'):
        # The learning rate of a recipe belongs to its total batch size.
        cfg.auto_scale_lr.enable = True
    if 'backbone' in cfg.model and not args.pretrained_backbone:
        cfg.model.backbone.init_cfg = None
    optim = cfg.get('optim_wrapper') or {}
    if get_device() == 'cpu' and optim.get('type') == 'AnyDeviceAmpOptimWrapper':
        # most CPUs emulate bfloat16, ten times as slow
        optim.type = 'OptimWrapper'
        optim.pop('dtype', None)
    for name in ('RichProgressHook', 'LoadWeightsHook'):
        if find_hook(cfg, name) is None:
            cfg.setdefault('custom_hooks', []).append(ConfigDict(type=name))
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir, cfg.launcher = work_dir, args.launcher
    # mmengine resumes load_from, where it is given, and the last checkpoint of work_dir otherwise
    cfg.resume = resume
    cfg.load_from = None if cfg.resume else args.load_from or cfg.get('load_from')
    return cfg


def shared_images(checked: List[CheckedFiles]) -> List[Problem]:
    """A warning where different annotation files name the same images."""
    train, val = (
        [files for files in checked if files.mode == mode and files.content]
        for mode in ('train', 'val')
    )
    if not train or not val or train[0].ann_file == val[0].ann_file:
        return []
    names = [
        {os.path.join(files.img_dir, image['file_name']) for image in files.content.images}
        for files in (train[0], val[0])
    ]
    shared = sorted(names[0] & names[1])
    if not shared:
        return []
    message = f'{len(shared)} of its images are those of {train[0].ann_file}, as {shared[0]}.'
    remedy = 'Name the folder of the other images with --val-images, or evaluate on others.'
    return [Problem('warning', val[0].ann_file, message, remedy)]


def find_checkpoints(work_dir: str) -> list:
    """Checkpoints of a run; a start that failed has left none."""
    return sorted(Path(work_dir).glob('*.pth'))


if __name__ == '__main__':
    sys.exit(main())
