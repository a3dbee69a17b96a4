# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""One rank of test_matching_stability_hook.py: match_all(DATA_ROOT), written to FOLDER."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import deim_mmdet  # noqa: F401
from deim_mmdet.engine.matching_stability_hook import FixedImages

CONFIG = Path(__file__).parents[2] / 'configs/dn_detr/dn-deformable-detr_hgnetv2-atto_digits.py'
OPTIONS = dict(num_train=8, num_val=5, image_hw=(64, 64), digit_size=(16, 40), objects=(0, 3))


def match_all(data_root: str) -> list:
    """The query of each object, for a model with random weights; two images make a batch."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIG)
    loader = cfg.val_dataloader
    loader.batch_size = 2
    loader.dataset.update(data_root=data_root, options=OPTIONS)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    images = FixedImages(Runner.build_dataloader(loader, seed=0), num_images=100)
    with torch.no_grad():
        return images.match(model)


if __name__ == '__main__':
    matched = match_all(sys.argv[1])
    torch.save(matched, Path(sys.argv[2]) / f'rank{dist.get_rank()}.pt')
    dist.barrier()
    dist.destroy_process_group()
