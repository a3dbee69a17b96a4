# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmdet.datasets.transforms import RandomFlip
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from torch import nn

from deim_mmdet.datasets.batch import BatchMixUp, BatchRandomSize
from deim_mmdet.datasets.transforms import DenseO2O, DenseO2OStage
from deim_mmdet.engine import DenseO2OHook
from deim_mmdet.engine.dense_o2o_hook import find_transforms

from .toy import ToyModel, make_runner

START, MOSAIC, CLASSIC, END = DenseO2OStage
STAGES = (1, 3, 4)


class Preprocessor(nn.Module):
    """Holds batch augmentation as DetDataPreprocessor does."""

    def __init__(self):
        super().__init__()
        self.batch_augments = nn.ModuleList([BatchMixUp(), BatchRandomSize(32)])

    def forward(self, data, training=False):
        return data


class StageRecorder(Hook):
    """Notes in every iteration what is switched on."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, **kwargs):
        mixup, random_size = runner.model.data_preprocessor.batch_augments
        switch = runner.train_dataloader.dataset.pipeline[0]
        self.seen[runner.epoch] = (switch.stage, mixup.enabled, random_size.enabled)


def run(tmp_path, mixup=None, **cfg):
    recorder, model = StageRecorder(), ToyModel()
    model.data_preprocessor = Preprocessor()
    hooks = [DenseO2OHook(STAGES, mixup), recorder]
    make_runner(tmp_path, 6, model=model, pipeline=[DenseO2O()], custom_hooks=hooks, **cfg).train()
    return recorder.seen


def test_stages_beyond_the_run_are_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, message, *args: told.append(message))
    for epochs in (STAGES[-1], STAGES[-1] - 1):
        hooks = [DenseO2OHook(STAGES)]
        make_runner(tmp_path, epochs, pipeline=[DenseO2O()], custom_hooks=hooks).train()
    (message,) = [message for message in told if 'DenseO2OHook' in message]
    assert f'{STAGES} go beyond the run of {STAGES[-1] - 1} epochs' in message


EXPECTED = {
    0: (START, False, True),
    1: (MOSAIC, True, True),
    2: (MOSAIC, True, True),
    3: (CLASSIC, False, True),
    4: (END, False, False),
    5: (END, False, False),
}


def test_every_epoch_has_its_stage(tmp_path):
    assert run(tmp_path) == EXPECTED


def test_mixup_may_have_its_own_epochs(tmp_path):
    seen = run(tmp_path, mixup=(0, 2))
    assert [mixup for _, mixup, _ in seen.values()] == [True, True, False, False, False, False]


@pytest.mark.parametrize('epoch', [1, 3, 5])
def test_resume_in_the_middle(tmp_path, epoch):
    run(tmp_path)
    seen = run(tmp_path, load_from=str(tmp_path / f'epoch_{epoch}.pth'), resume=True)
    assert seen == {e: expected for e, expected in EXPECTED.items() if e >= epoch}


def test_finds_transforms_wherever_they_are():
    class Holder:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

    first, second, third = DenseO2O(), DenseO2O(), DenseO2O()
    inner = Holder(pipeline=Compose([RandomFlip(prob=0.5), first]))
    wrapping = Holder(transforms=[Holder(transforms=[second])])
    data = Holder(datasets=[Holder(dataset=inner), Holder(_dataset=Holder(pipeline=[wrapping]))],
                  pipeline=[third])  # fmt: skip
    assert list(find_transforms(data, DenseO2O)) == [first, second, third]


def test_refuses_to_steer_nothing(tmp_path):
    with pytest.raises(ValueError, match='nothing to steer'):
        make_runner(tmp_path, 1, custom_hooks=[DenseO2OHook(STAGES)]).train()


@pytest.mark.parametrize('kwargs', [dict(stages=(3, 1, 4)), dict(stages=STAGES, mixup=(3, 1))])
def test_refuses_epochs_that_do_not_ascend(kwargs):
    with pytest.raises(ValueError, match='ascending 0-based epochs'):
        DenseO2OHook(**kwargs)


def test_state_of_the_model_is_not_touched():
    model = ToyModel()
    keys = set(model.state_dict())
    model.data_preprocessor = Preprocessor()
    assert set(model.state_dict()) == keys
    assert not any(isinstance(p, torch.Tensor) for p in Preprocessor().parameters())
