# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The second stage of DEYO from the checkpoint of the first, through a Runner's load_from."""

import copy
import re

import pytest
import torch
from mmengine.config import Config

from deim_mmdet.convert import revert_state_dict
from deim_mmdet.datasets.config_checks import check_checkpoint
from tests.test_models.deyo_runs import (
    DIGITS,
    FROZEN,
    Images,
    Watch,
    build,
    build_stage_one,
    build_stage_two,
    make_runner,
    save_stage_one,
)
from tests.test_models.parity import ROOT
from tests.test_models.samples import data_samples


@pytest.fixture(scope='module')
def stage_one():
    return build_stage_one().state_dict()


@pytest.fixture(scope='module')
def stage_one_file(tmp_path_factory):
    return save_stage_one(tmp_path_factory.mktemp('stage_one') / 'yolov8.pth')


def shared(state):
    return {k: v for k, v in state.items() if k.startswith((*FROZEN, 'bbox_head.box'))}


@pytest.mark.parametrize('published', [False, True])
def test_takes_what_both_stages_have(stage_one, published):
    weights = revert_state_dict(stage_one, family='YOLOv8')[0] if published else stage_one
    model = build_stage_two()
    before = copy.deepcopy(model.state_dict())
    given = dict(weights)
    model.load_state_dict(given)  # strict: nothing is missing or left over
    assert given.keys() == dict(weights).keys()  # the caller's dict is as it was
    after = model.state_dict()
    assert len(shared(after)) > 200
    for key, value in after.items():
        origin = stage_one if key in shared(after) else before
        assert torch.equal(value, origin[key]), key
    model.load_state_dict(before)  # those of a whole DEYO load as they are
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_refuses_other_checkpoints_and_names_both(stage_one):
    n = build('yolov8/yolov8_n_digits').state_dict()
    cases = [
        (
            n,
            r'checkpoint is YOLOv8-N, that of the model is one with stages of \[16, 32, 64, 128\] '
            'channels: 0 tensors are missing',
        ),
        (
            build('yolov8/yolov8_atto_digits', **{'bbox_head.num_classes': 80}).state_dict(),
            'checkpoint has 80 classes, the model has 10',
        ),
        ({k: v for k, v in stage_one.items() if 'neck' not in k}, 'tensors are missing'),
        # not YOLOv8
        (shared(stage_one), 'begins with the weights of a YOLOv8'),
        (dict(fc=torch.zeros(1)), 'begins with the weights of a YOLOv8 .* this checkpoint has fc'),
    ]
    for weights, match in cases:
        with pytest.raises(ValueError, match=match):
            build_stage_two().load_state_dict(weights, strict=False)


def test_other_classes_are_found_before_training(tmp_path):
    """No shape differs: what the stages share is the same for any number of classes."""
    other = build('yolov8/yolov8_atto_digits', **{'bbox_head.num_classes': 80})
    cfg = Config.fromfile(ROOT / 'configs/deyo/deyo_yolov8-atto_digits.py')
    cfg.load_from = save_stage_one(tmp_path / 'other.pth', other)
    (problem,) = check_checkpoint(cfg)
    assert problem.level == 'error' and 'has 80 classes, the model has 10' in str(problem)
    cfg.load_from = save_stage_one(tmp_path / 'same.pth')
    assert check_checkpoint(cfg) == []


def test_a_run_and_a_resumed_one_freeze_the_same_bits(tmp_path, stage_one, stage_one_file):
    def train(name, epochs, **changes):
        watch = Watch()
        runner = make_runner(tmp_path / name, epochs, denoising=False, hooks=[watch], **changes)
        runner.train()
        return runner, watch

    whole, watch = train('whole', 3, load_from=stage_one_file)
    train('part', 1, load_from=stage_one_file)
    path = str(tmp_path / 'part/epoch_1.pth')
    _, watch_of_rest = train('rest', 3, load_from=path, resume=True)

    state = whole.model.state_dict()
    files = [
        torch.load(tmp_path / f'{n}/epoch_3.pth', weights_only=False) for n in ('whole', 'rest')
    ]
    frozen = [key for key in state if key.startswith(FROZEN)]
    assert sum('running' in key for key in frozen) > 60
    for key in frozen:
        assert torch.equal(state[key], stage_one[key]), key
        assert torch.equal(files[0]['state_dict'][key], stage_one[key]), key  # the average
    # the box branch is trained, and its average is not it
    key = 'bbox_head.box_branch.branches.0.weight'
    assert not torch.equal(state[key], stage_one[key])
    assert not torch.equal(files[0]['state_dict'][key], state[key])

    # losses of every step, weights, average and state of the optimiser go on as if never stopped
    steps = len(watch.losses) // 3
    assert steps == 2 and watch.losses[steps:] == watch_of_rest.losses
    for name in ('state_dict', 'ema_state_dict'):
        for key, value in files[0][name].items():
            same = torch.equal if isinstance(value, torch.Tensor) else dict.__eq__  # its constants
            assert same(files[1][name][key], value), key
    moments, resumed_moments = (file['optimizer']['state'] for file in files)
    trained = sum(p.requires_grad for p in whole.model.parameters())
    assert len(moments) == len(resumed_moments) == trained
    for index, moment in moments.items():
        for name, value in moment.items():
            assert torch.equal(resumed_moments[index][name], value), (index, name)


def logged(monkeypatch, runner):
    """What the log says in a run, and the error that ends it."""
    said, error = [], None
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *_: said.append(text))
    monkeypatch.setattr(runner.logger, 'log', lambda level, text: said.append(text))
    try:
        runner.train()
    except ValueError as refusal:
        error = str(refusal)
    return [str(text) for text in said], error


def test_without_a_first_stage_one_warning_names_the_cost(tmp_path, monkeypatch):
    said, error = logged(monkeypatch, make_runner(tmp_path / 'run', 2, Images((2, 3))))
    (warning,) = (text for text in said if 'random weights' in text)
    assert warning.startswith('StagedFreezeHook freezes backbone, neck with random weights')
    assert 'never adapt stays far below' in warning and 'set load_from' in warning
    assert error is None


# classes of the data set, classes of the checkpoint, what the log says of them, what is refused
COCO80 = tuple(f'class {i}' for i in range(80))
CLASSES = {
    'same': (DIGITS, DIGITS, 'class rows: the model takes none of the checkpoint$', None),
    'other order': (DIGITS[::-1], DIGITS, 'the model takes none of the checkpoint$', None),
    'not named': (DIGITS, None, 'class rows: the model takes none of the checkpoint$', None),
    'other names': (
        ('van', *DIGITS[1:]),
        DIGITS,
        r'trained on other classes: van of the data set are not among its 10 \(0, 1, .*A part that '
        'is frozen never adapts to them: train it on this data set first.',
        None,
    ),
    'other number': (
        DIGITS,
        COCO80,
        'trained on other classes: 0, 1, ',
        'checkpoint has 80 classes, the model has 10',
    ),
}


@pytest.mark.parametrize('case', CLASSES)
def test_classes_of_the_first_stage(tmp_path, monkeypatch, stage_one, case):
    wanted, known, message, refusal = CLASSES[case]
    weights = stage_one
    if known == COCO80:
        model = build('yolov8/yolov8_atto_digits', **{'bbox_head.num_classes': 80})
        weights = model.state_dict()
    meta = dict(dataset_meta=dict(classes=known)) if known else {}
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'yolov8.pth')
    runner = make_runner(
        tmp_path / 'run', 1, Images((2, 3), wanted), load_from=str(tmp_path / 'yolov8.pth')
    )
    said, error = logged(monkeypatch, runner)
    (text,) = (text for text in said if text.startswith('class rows'))
    assert re.search(message, text), text
    assert error is None if refusal is None else re.search(refusal, error)


def test_published_names_in_load_from(tmp_path, stage_one):
    weights = revert_state_dict(stage_one, family='YOLOv8')[0]
    torch.save(dict(model=weights), tmp_path / 'yolov8.pth')
    runner = make_runner(
        tmp_path / 'run', 1, Images((2, 3)), load_from=str(tmp_path / 'yolov8.pth')
    )
    runner.train()
    state = runner.model.state_dict()
    assert all(torch.equal(state[k], stage_one[k]) for k in state if k.startswith(FROZEN))


def test_an_unknown_part_is_told_those_of_the_model(tmp_path):
    runner = make_runner(tmp_path / 'run', 1, freeze=dict(parts=['backbone', 'nekc']))
    with pytest.raises(
        ValueError, match="no part 'nekc'. The parts of DEYO are .*backbone, neck, bbox_head, "
    ):
        runner.train()


def test_trains_without_objects_at_all(tmp_path, stage_one_file):
    watch = Watch()
    make_runner(
        tmp_path / 'run',
        1,
        Images((0, 0, 0, 2)),
        hooks=[watch],
        shuffle=False,
        load_from=stage_one_file,
    ).train()
    first, second = watch.losses  # without objects, with
    assert first.keys() == second.keys()
    assert first['loss_bbox'] == 0 < second['loss_bbox']
    assert watch.gradients[0].keys() == watch.gradients[1].keys()
    assert all(gradient.isfinite().all() for gradient in watch.gradients[0].values())


def test_predicts_rectangles(stage_one):
    model = build_stage_two().eval()
    model.load_state_dict(stage_one)
    hw = (96, 160)
    samples = data_samples((0, 1), hw, 10)
    for sample in samples:
        sample.set_metainfo(dict(ori_shape=(48, 80), scale_factor=(2.0, 2.0)))
    with torch.no_grad():
        results = model.predict(torch.rand(2, 3, *hw), samples)
    limits = torch.tensor([80.0, 48.0, 80.0, 48.0])
    for result in results:
        found = result.pred_instances
        assert len(found) == model.test_cfg.max_per_img and found.scores.diff().max() <= 0
        assert (found.bboxes >= 0).all() and (found.bboxes <= limits).all()
