# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import importlib.util
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from deim_mmdet.datasets.config_checks import find_datasets
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
sys.path.append(str(TOOLS))  # some of the tools import their neighbours


@pytest.fixture
def tool():
    """Import a file of tools/ as a module: ``tool('demo').main([...])``."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f'tools_{name}', TOOLS / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tiny_digits(tmp_path):
    """A config of the digits on a handful of small scenes: the path of ``tiny_digits(config)``."""

    def shrink(config, max_epochs=2):
        cfg = Config.fromfile(config)
        options = dict(
            num_train=8, num_val=3, image_hw=(64, 96), digit_size=(16, 40), objects=(1, 3)
        )
        root = str(tmp_path / 'digits')
        make_digits(root, DigitsOptions(**options), False)
        for mode in ('train', 'val', 'test'):
            loader = cfg[f'{mode}_dataloader']
            loader.update(batch_size=4, num_workers=0, persistent_workers=False)
            loader.pop('prefetch_factor', None)
            for dataset in find_datasets(loader.dataset):
                dataset.update(data_root=root, options=options)
            if mode != 'train':
                cfg[f'{mode}_evaluator'].ann_file = f'{root}/annotations/val.json'
        cfg.train_cfg.update(max_epochs=max_epochs, val_interval=1)
        cfg.param_scheduler = []
        # The stages of the recipe do not fit into two epochs; the other hooks stay.
        for name in ('dense_o2o', 'two_stage_end'):
            cfg.default_hooks.pop(name, None)
        path = tmp_path / f'tiny_{Path(config).name}'
        cfg.dump(str(path))
        return path

    return shrink
