# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The second stage of DEYO from the checkpoint of the first, through a Runner's load_from."""

import copy

import pytest
import torch

from deim_mmdet.convert import revert_state_dict
from tests.test_models.deyo_runs import (
    FROZEN,
    Watch,
    build,
    build_stage_one,
    build_stage_two,
    make_runner,
    save_stage_one,
)


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
