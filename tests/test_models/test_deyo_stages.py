# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The second stage of DEYO from the checkpoint of the first, through a Runner's load_from."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import Dataset

from deim_mmdet.convert import revert_state_dict
from tests.test_models.parity import ROOT
from tests.test_models.samples import data_samples

DIGITS = tuple('0123456789')


def build(path, seed=0, **changes):
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    cfg = Config.fromfile(ROOT / f'configs/{path}.py').model
    for key, value in changes.items():
        part, _, name = key.partition('.')
        cfg[part][name] = value
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    with torch.no_grad():  # statistics like those of a trained model
        for name, buffer in model.named_buffers():
            if 'running' in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


@pytest.fixture(scope='module')
def stage_one():
    return build('yolov8/yolov8_atto_digits').state_dict()


def stage_two(seed=1):
    return build('deyo/deyo_yolov8-atto_digits', seed)


def shared(state):
    return {k: v for k, v in state.items() if k.startswith(('backbone', 'neck', 'bbox_head.box'))}


@pytest.mark.parametrize('published', [False, True])
def test_takes_what_both_stages_have(stage_one, published):
    weights = revert_state_dict(stage_one, family='YOLOv8')[0] if published else stage_one
    model = stage_two()
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
            stage_two().load_state_dict(weights, strict=False)


class Images(Dataset):
    metainfo = dict(classes=DIGITS)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 64, 96), generator=generator).byte()
        return dict(inputs=image, data_samples=data_samples([index], (64, 96), 10)[0])


def runner(folder, epochs, **changes):
    cfg = Config.fromfile(ROOT / 'configs/deyo/deyo_yolov8-atto_digits.py')
    model = stage_two()
    model.denoising = None  # its random numbers are not resumed
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Images(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=cfg.optim_wrapper,
        default_hooks=dict(
            staged_freeze=cfg.default_hooks.staged_freeze,
            load_weights=cfg.default_hooks.load_weights,
            checkpoint=dict(type='CheckpointHook', interval=1),
            # constants that do not depend on the length of the run
            ema=dict(type='WarmupEMAHook', decay=0.5, warmup=0, max_window_share=1.0),
        ),
        default_scope='mmdet',
        experiment_name=f'{folder.name}_{id(model)}',
        randomness=dict(seed=0),
        log_level='WARNING',
        **changes,
    )


def test_frozen_tensors_stay_through_a_run_and_a_resumed_one(tmp_path, stage_one):
    path = tmp_path / 'yolov8.pth'
    torch.save(dict(state_dict=stage_one, meta=dict(dataset_meta=dict(classes=DIGITS))), path)
    whole = runner(tmp_path / 'whole', 2, load_from=str(path))
    whole.train()
    runner(tmp_path / 'part', 1, load_from=str(path)).train()
    resumed = runner(
        tmp_path / 'rest', 2, load_from=str(tmp_path / 'part/epoch_1.pth'), resume=True
    )
    resumed.train()

    state = whole.model.state_dict()
    saved = torch.load(tmp_path / 'whole/epoch_2.pth', weights_only=False)['state_dict']  # average
    frozen = [key for key in state if key.startswith(('backbone.', 'neck.'))]
    for key in frozen:
        assert torch.equal(state[key], stage_one[key]), key
        assert torch.equal(saved[key], stage_one[key]), key
    # the box branch is trained
    key = 'bbox_head.box_branch.branches.0.weight'
    assert not torch.equal(state[key], stage_one[key])
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
