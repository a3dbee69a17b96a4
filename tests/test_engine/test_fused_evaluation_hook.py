# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner
from mmengine.runner.priority import get_priority

from deim_mmdet.datasets import CheckedCocoMetric
from deim_mmdet.engine import FusedEvaluationHook
from tests.test_models.parity import ROOT

from .toy import make_runner

DIGITS = dict(num_train=1, num_val=6, image_hw=(96, 96), digit_size=(20, 60))


class Keep(BaseMetric):
    """Keeps what the detector found, and the detector."""

    def __init__(self):
        super().__init__()
        self.found = []

    def process(self, data_batch, data_samples):
        self.found += [(s['img_id'], copy.copy(s['pred_instances'])) for s in data_samples]

    def compute_metrics(self, results):
        return {}

    def evaluate(self, size):
        return {}


class Watch(Hook):
    """Notes which model evaluates, as a hook of a name's own priority."""

    priority = 'VERY_LOW'

    def before_val_epoch(self, runner):
        self.evaluating = runner.model

    def after_val_epoch(self, runner, metrics=None):
        self.afterwards = runner.model

    before_test_epoch, after_test_epoch = before_val_epoch, after_val_epoch


@pytest.fixture(scope='module')
def evaluations(tmp_path_factory):
    """{form: (runner, found, watch, weights before)} of one model with spread-out scores."""
    folder = tmp_path_factory.mktemp('digits')
    config = Config.fromfile(ROOT / 'configs/deim/deim_dfine_hgnetv2-atto_digits.py')
    for name in ('val_dataloader', 'test_dataloader'):
        dataset = config[name].dataset
        dataset.update(data_root=str(folder / 'data'), options=DIGITS)
        config[name].update(num_workers=0, persistent_workers=False, batch_size=3)
    results, weights = {}, None
    for form, fp16, hooks in (
        ('plain', False, {}),
        ('fused', False, dict(fused_evaluation=dict(type='FusedEvaluationHook'))),
        ('fused, AMP', True, dict(fused_evaluation=dict(type='FusedEvaluationHook'))),
    ):
        keep, watch = Keep(), Watch()
        runner = Runner(
            model=config.model,
            work_dir=str(folder / form),
            val_dataloader=config.val_dataloader,
            val_cfg=dict(fp16=fp16),
            val_evaluator=[keep],
            test_dataloader=config.test_dataloader,
            test_cfg=dict(fp16=fp16),
            test_evaluator=[keep],
            default_hooks=dict(hooks, logger=None, checkpoint=None),
            custom_hooks=[watch],
            default_scope='mmdet',
            log_level='ERROR',
            experiment_name=f'fused_{form}',
        )
        if weights is None:
            weights = spread(runner.model)
        runner.model.load_state_dict(weights)
        runner.val()
        results[form] = runner, keep.found, watch
    return results, weights, folder


def spread(model):
    """Random weights with norms that have seen something, and scores that differ."""
    torch.manual_seed(0)
    model.init_weights()
    for name, parameter in model.named_parameters():
        if 'cls_branch' in name:
            torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.0)
        elif 'reg_branch' in name or 'sampling_offsets' in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    # features of random layers differ little until the norms know them
    model.train()
    with torch.no_grad():
        for _ in range(30):
            coarse = torch.rand(4, 3, 12, 12)
            model.extract_feat(torch.nn.functional.interpolate(coarse, size=(96, 96)))
    return copy.deepcopy(model.state_dict())


def average_precision(found, truth, folder):
    """AP where the ten surest of ``truth`` are the objects."""
    annotations = []
    for image_id, pred in truth:
        for box, label in zip(pred['bboxes'][:10].tolist(), pred['labels'][:10].tolist()):
            x1, y1, x2, y2 = box
            annotations.append(
                dict(image_id=image_id, bbox=[x1, y1, x2 - x1, y2 - y1], category_id=label + 1)
            )
    images = [
        dict(id=image_id, file_name=f'{image_id}', width=96, height=96) for image_id, _ in truth
    ]
    categories = [dict(id=i + 1, name=str(i)) for i in range(10)]
    content = dict(images=images, annotations=annotations, categories=categories)
    path = folder / 'truth.json'
    path.write_text(json.dumps(content))
    metric = CheckedCocoMetric(str(path))
    metric.dataset_meta = dict(classes=tuple(map(str, range(10))))
    samples = [
        dict(img_id=image_id, ori_shape=(96, 96), pred_instances=pred) for image_id, pred in found
    ]
    metric.process({}, samples)
    return metric.evaluate(len(samples))['coco/bbox_mAP']


def test_detections_are_the_same(evaluations):
    results, _, folder = evaluations
    plain, fused = results['plain'][1], results['fused'][1]
    assert np.ptp(plain[0][1]['scores'].numpy()) > 0.1
    for (image_id, expected), (other_id, got) in zip(plain, fused):
        assert image_id == other_id
        torch.testing.assert_close(got['scores'], expected['scores'], atol=1e-4, rtol=1e-3)
    truth = plain
    expected = average_precision(plain, truth, folder)
    assert expected > 0.5
    assert average_precision(fused, truth, folder) == pytest.approx(expected, abs=1e-3)


def test_mixed_precision_evaluates(evaluations):
    results, _, _ = evaluations
    plain, half = results['plain'][1], results['fused, AMP'][1]
    scores = [torch.stack([pred['scores'].float() for _, pred in found]) for found in (plain, half)]
    assert (scores[0] - scores[1]).abs().max() > 0  # bfloat16 was used
    torch.testing.assert_close(*scores, atol=0.05, rtol=0)
    assert all(torch.isfinite(pred['bboxes']).all() for _, pred in half)


def test_trained_model_is_untouched(evaluations):
    results, weights, _ = evaluations
    for form in ('fused', 'fused, AMP'):
        runner, _, watch = results[form]
        assert runner.model is watch.afterwards and runner.model is not watch.evaluating
        state = runner.model.state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[name], weights[name]) for name in state)
        # fewer tensors: the norms are gone
        assert len(watch.evaluating.state_dict()) < len(state)
    runner, _, watch = results['plain']
    assert watch.evaluating is runner.model


def test_testing_takes_the_copy_too(evaluations):
    results, _, _ = evaluations
    runner, found, watch = results['fused']
    count = len(found)
    runner.test()
    assert watch.evaluating is not runner.model and watch.afterwards is runner.model
    assert len(found) == 2 * count


def test_training_with_an_average(tmp_path):
    """The copy has the averaged weights; what is saved and trained on is as without the hook."""
    outcomes = []
    for hooks in ({}, dict(fused_evaluation=dict(type='FusedEvaluationHook'))):
        watch = Watch()
        runner = make_runner(
            tmp_path / str(len(hooks)),
            2,
            scores=[0.5, 0.6],
            default_hooks=dict(
                hooks,
                checkpoint=dict(type='CheckpointHook', save_best='coco/bbox_mAP'),
                ema=dict(type='WarmupEMAHook', decay=0.5, warmup=1, max_window_share=1.0),
            ),
            custom_hooks=[watch],
        )
        runner.train()
        evaluating = copy.deepcopy(watch.evaluating.state_dict())
        assert (watch.evaluating is runner.model) != bool(hooks)
        assert watch.afterwards is runner.model
        (best,) = (tmp_path / str(len(hooks))).glob('best_*.pth')
        saved = torch.load(best, weights_only=False)['state_dict']
        outcomes.append((runner.model.state_dict(), saved, evaluating))
    (trained, saved, _), (trained_fused, saved_fused, evaluating) = outcomes
    torch.testing.assert_close(trained_fused, trained, rtol=0, atol=0)
    torch.testing.assert_close(saved_fused, saved, rtol=0, atol=0)
    # a checkpoint has the average as its state
    torch.testing.assert_close(evaluating['head.weight'], saved['head.weight'], rtol=0, atol=0)
    assert not torch.equal(evaluating['head.weight'], trained['head.weight'])


def test_wrapped_models_are_copied_bare():
    runner = SimpleNamespace(model=torch.nn.DataParallel(torch.nn.Linear(2, 3)))
    wrapped, hook = runner.model, FusedEvaluationHook()
    hook.before_val_epoch(runner)
    assert isinstance(runner.model, torch.nn.Linear) and runner.model is not wrapped.module
    hook.after_val_epoch(runner)
    assert runner.model is wrapped


@pytest.mark.skipif(not hasattr(torch.nn.Module, 'compile'), reason='PyTorch < 2.1')
def test_compiled_models_are_copied_uncompiled():
    def backend(graph, inputs):
        raise AssertionError('compiled')

    runner = SimpleNamespace(model=torch.nn.Linear(2, 3))
    runner.model.compile(backend=backend)
    FusedEvaluationHook().before_val_epoch(runner)
    assert runner.model(torch.ones(1, 2)).shape == (1, 3)


def test_order_among_hooks():
    """After the average's weights are in, before anything is saved."""
    ema, ours, checkpoint = (
        get_priority(kind.priority) for kind in (EMAHook, FusedEvaluationHook, CheckpointHook)
    )
    assert ema < ours < checkpoint
