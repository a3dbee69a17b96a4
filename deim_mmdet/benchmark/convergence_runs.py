# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The runs that tools/benchmark_convergence.py compares: their models, their data, one run."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from deim_mmdet.engine import SameConditionsHook
from deim_mmdet.engine.recipe import scale_epoch, set_epochs
from deim_mmdet.new_output import new_output

from .check_sum import check_sum
from .convergence_curves import VARIANTS, Epoch, RunName, epochs_to_csv, read_epochs

PathLike = Union[str, os.PathLike]
# Stages of DEIM-D-FINE-L: mosaics begin and end, all augmentation ends, length of the run.
PUBLISHED_STAGES = (4, 29, 50, 58)
VARIFOCAL = dict(type='IoUVarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0)  # as published


@dataclass(frozen=True)
class Preset:
    """Models, and what a set-up defaults to.

    Attributes:
        detectors (dict[str, str]): Config of each detector.
        changes (dict): Changes to these configs.
        objects (tuple[int, int]): Fewest and most digits in a scene.
        digit_size (tuple[float, float]): Their longer sides, as shares of the image's side.
        jobs (int): Runs at once.
        workers (int): Worker processes of a run that load data.
        size, scenes, val_scenes, epochs, batch_size: See :class:`Setup`.
    """

    detectors: Dict[str, str]
    changes: dict
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
        # half the time of a step; a mosaic with MixUp has 48 objects at most
        changes={
            'model.num_queries': 60,
            'model.denoising.num_queries': 30,
            'model.decoder.num_layers': 2,
            'model.test_cfg.max_per_img': 60,
        },
        size=96,
        scenes=600,
        val_scenes=200,
        objects=(2, 6),
        digit_size=(0.17, 0.36),
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
        jobs=4,  # such small models do not fill a large GPU; how many do is not measured
        workers=4,
    ),
)


@dataclass(frozen=True)
class Setup:
    """What all runs of a folder share.

    Attributes:
        preset (str): Name in ``PRESETS``.
        size (int): Side of the images in pixels.
        scenes, val_scenes (int): Images to train and to evaluate with.
        epochs (int): Length of the baseline.
        batch_size (int): Images of a step.
        cfg_options (dict): Changes to all configs, as mmengine's ``merge_from_dict`` takes them.
    """

    preset: str
    size: int
    scenes: int
    val_scenes: int
    epochs: int
    batch_size: int
    cfg_options: dict

    def digits(self) -> dict:
        """Arguments of ``DigitsOptions``."""
        preset = PRESETS[self.preset]
        return dict(
            num_train=self.scenes,
            num_val=self.val_scenes,
            image_hw=(self.size, self.size),
            objects=preset.objects,
            digit_size=tuple(max(16, round(share * self.size)) for share in preset.digit_size),
        )


def build_config(configs: PathLike, setup: Setup, run: RunName, folder: Path) -> Config:
    """The config of DEIM on digits, without what the variant does not have.

    Args:
        configs (str | PathLike): Folder of the configs.
        setup (Setup): What all runs share.
        run (RunName): The run.
        folder (Path): Folder of all runs: the data are in ``data``, the run works in
            ``runs/NAME/training``.

    Returns:
        Config: The config.
    """
    preset, variant = PRESETS[setup.preset], VARIANTS[run.variant]
    cfg = Config.fromfile(Path(configs) / preset.detectors[run.detector])
    set_data(cfg, setup, folder / 'data')
    cfg = set_schedule(cfg, variant.epochs(setup.epochs))
    cfg.merge_from_dict(preset.changes)
    cfg.merge_from_dict(setup.cfg_options)
    if not variant.dense_o2o:
        preprocessor = cfg.model.data_preprocessor
        augments = preprocessor.get('batch_augments') or []
        preprocessor.batch_augments = [x for x in augments if x.type != 'BatchMixUp'] or None
        dense_o2o_of(cfg).mosaic_prob = 0
    if not variant.mal:
        cfg.model.bbox_head.loss_cls = dict(VARIFOCAL)
    # the epoch before, too, if a stop comes between a checkpoint and its evaluation
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)
    cfg.work_dir = str(folder_of(folder, run) / 'training')
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


def folder_of(folder: Path, run: RunName) -> Path:
    return folder / 'runs' / str(run)


def epochs_of(folder: Path, run: RunName) -> List[Epoch]:
    """What a run has finished, see :func:`read_epochs`."""
    return read_epochs(folder_of(folder, run) / 'epochs.csv')


def train(configs: PathLike, setup: Setup, run: RunName, folder: Path) -> None:
    """Train one run, from its last finished epoch on; arguments as in :func:`build_config`."""
    cfg = build_config(configs, setup, run, folder)
    epochs = resumable(epochs_of(folder, run), Path(cfg.work_dir))
    if epochs:
        cfg.load_from, cfg.resume = str(checkpoint(Path(cfg.work_dir), len(epochs))), True
    runner = Runner.from_cfg(cfg)
    conditions = SameConditionsHook(run.seed)
    runner.register_hook(conditions)
    runner.register_hook(EpochFileHook(folder_of(folder, run) / 'epochs.csv', epochs, conditions))
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
            self.epochs[0].weights_crc32
            if self.epochs
            else check_sum(runner.model.state_dict().values())
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
        with new_output(self.file, overwrite=True) as path:
            path.write_text(epochs_to_csv(self.epochs))
