# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import cv2
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import HOOKS, TRANSFORMS
from mmengine.config import Config
from mmengine.hooks import Hook

from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
CONFIGS = TOOLS.parent / 'configs'


@pytest.fixture
def benchmark(tool, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))  # as `python tools/benchmark_denoising.py` has it
    return tool('benchmark_denoising')


class Witness(Hook):
    """Notes with what a run begins, and what the model is given in each step."""

    runs = {}

    def before_train(self, runner):
        weights = {key: value.clone() for key, value in runner.model.state_dict().items()}
        steps = []
        self.runs[runner.cfg.experiment_name] = weights, steps
        runner.model.data_preprocessor.register_forward_hook(
            lambda module, args, batch: (
                steps.append(
                    (batch['inputs'].clone(), [len(x.gt_instances) for x in batch['data_samples']])
                )
                if runner.model.training
                else None
            )
        )


class TorchBrightness(BaseTransform):
    """Draws from the source that denoising draws from."""

    def transform(self, results):
        results['img'] = results['img'] // (1 + int(torch.randint(9, ())))
        return results


@pytest.fixture
def tiny_config(tmp_path, monkeypatch):
    """DN-Deformable-DETR on a handful of scenes that are darkened and mixed at random."""
    options = dict(num_train=8, num_val=3, image_hw=(64, 64), digit_size=(16, 40), objects=(1, 3))
    root = str(make_digits(tmp_path / 'digits', DigitsOptions(**options), False))
    cfg = Config.fromfile(CONFIGS / 'dn_detr' / 'dn-deformable-detr_hgnetv2-atto_digits.py')
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=root, options=options)
        loader.dataset.pipeline[2].scale = (64, 64)
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='TorchBrightness'))
    cfg.model.data_preprocessor.batch_augments = [dict(type='BatchMixUp', prob=0.5)]
    cfg.val_evaluator.ann_file = f'{root}/annotations/val.json'
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.custom_hooks = [dict(type='Witness')]
    path = tmp_path / 'tiny.py'
    cfg.dump(str(path))
    monkeypatch.setitem(HOOKS.module_dict, 'Witness', Witness)
    monkeypatch.setitem(TRANSFORMS.module_dict, 'TorchBrightness', TorchBrightness)
    monkeypatch.setattr(Witness, 'runs', {})
    return path


def test_the_runs_differ_in_nothing_but_denoising(benchmark, tiny_config, tmp_path):
    out = tmp_path / 'out'
    arguments = ['--configs', str(tiny_config), '--epochs', '2', '--seeds', '0', '1']
    benchmark.main([*arguments, '--work-dir', str(out)])

    for seed in (0, 1):
        weights, steps = Witness.runs[f'tiny_{seed}_with denoising']
        base_weights, base_steps = Witness.runs[f'tiny_{seed}_without']
        assert set(weights) - set(base_weights) == {'denoising.label_embedding.weight'}
        assert all(torch.equal(weights[key], value) for key, value in base_weights.items())
        assert len(steps) == len(base_steps) == 2 * 2
        for (inputs, counts), (base_inputs, base_counts) in zip(steps, base_steps):
            assert torch.equal(inputs, base_inputs) and counts == base_counts
    first, second = (Witness.runs[f'tiny_{seed}_without'][1] for seed in (0, 1))
    assert not all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second))

    results = json.loads((out / 'results.json').read_text())['results']
    assert [(r['seed'], r['variant']) for r in results] == [
        (seed, variant) for seed in (0, 1) for variant in ('with denoising', 'without')
    ]
    for result in results:
        assert result['epochs'] == [1, 2]
        assert len(result['AP']) == len(result['AP50']) == 2
        for key in ('instability', 'published_instability'):
            assert result[key][0] is None and all(value >= 0 for value in result[key][1:])

    table = (out / 'table.md').read_text().splitlines()
    assert table[0] == 'tiny, mean of 2 seeds'
    rows = [line.strip('| ').split(' | ') for line in table if line.startswith('| ')]
    assert rows[0] == [
        *('epoch', 'AP with denoising', 'AP without'),
        *('instability with denoising', 'instability without'),
    ]
    mean = (results[0]['instability'][1] + results[2]['instability'][1]) / 2
    assert rows[2][0] == '2' and float(rows[2][3]) == pytest.approx(mean, abs=6e-4)
    assert cv2.imread(str(out / 'tiny.png')) is not None


def test_other_images_are_noticed(benchmark, tiny_config, tmp_path, monkeypatch):
    """Without seeds in every step the noise of denoising decides how dark images are."""
    monkeypatch.setattr(benchmark.SameConditionsHook, '_seed', lambda self, step: None)
    arguments = ['--configs', str(tiny_config), '--epochs', '1', '--work-dir', str(tmp_path / 'o')]
    with pytest.raises(RuntimeError, match='did not see the same images'):
        benchmark.main(arguments)


def test_configs_without_denoising(benchmark, tmp_path):
    config = str(CONFIGS / 'any_detr' / 'deim_dab-detr_r50_digits.py')
    with pytest.raises(SystemExit, match='has no model.denoising, so there is nothing to compare'):
        benchmark.main(['--configs', config, '--work-dir', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()
