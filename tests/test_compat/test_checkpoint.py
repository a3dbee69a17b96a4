# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint
from torch import nn
from torch.utils.data import Dataset

from deim_mmdet.compat.checkpoint import allow_mmengine_checkpoints, statistics_method

checked_by_default = pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'),
    reason='before PyTorch 2.6 torch.load runs what a file asks for',
)


class Line(Dataset):
    METAINFO = dict(classes=('line',))

    @property
    def metainfo(self):
        return dict(classes=('line',), palette=np.zeros((1, 3)))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((1,), float(index)), torch.full((1,), 2.0 * index)


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x, y, mode='loss'):
        return dict(loss=(self.linear(x) - y).square().mean())


def runner(work_dir, max_epochs, **kwargs):
    return Runner(
        model=ToyModel(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Line(),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        # without `end` the schedule would end with the first epoch of the divided run
        param_scheduler=dict(type='MultiStepLR', milestones=[1], end=9),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'{work_dir.name}_{max_epochs}_{len(kwargs)}',
        **kwargs,
    )


def test_a_run_resumes_from_its_own_checkpoint(tmp_path):
    """With EMA, log history, schedule and optimiser state: two epochs at once or one and one."""
    torch.manual_seed(0)
    whole = runner(tmp_path / 'whole', 2)
    start = {key: value.clone() for key, value in whole.model.state_dict().items()}
    whole.train()

    first = runner(tmp_path / 'parts', 1)
    first.model.load_state_dict(start)
    first.train()
    second = runner(tmp_path / 'parts', 2, resume=True)
    second.train()

    assert second.iter == 4
    history = second.message_hub.get_scalar('train/loss')
    assert isinstance(history, HistoryBuffer) and len(history.data[0]) == 4
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value)


def test_load_from(tmp_path):
    runner(tmp_path, 1).train()
    model = ToyModel()
    checkpoint = load_checkpoint(model, str(tmp_path / 'epoch_1.pth'))
    assert checkpoint['meta']['epoch'] == 1


class Call:
    """Pickles to a call of a function, the way a hostile file does it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@checked_by_default
@pytest.mark.parametrize(
    ('function', 'arguments', 'name'),
    [
        (os.system, ('touch {}',), 'posix|nt'),
        (eval, ('open("{}", "w")',), 'GLOBAL .*eval'),
        (subprocess.check_call, (['touch', '{}'],), r'\.check_call'),
        (getattr, (os, 'system'), 'os'),
        # allowed classes lead nowhere either
        (getattr, (HistoryBuffer, '__init__'), "'__init__' of .*HistoryBuffer"),
        (getattr, (np.ndarray, 'tofile'), "'tofile' of .*ndarray"),
    ],
)
def test_a_file_that_runs_code_is_refused_by_name(tmp_path, function, arguments, name):
    trace = tmp_path / 'trace'

    def aim(argument):
        if isinstance(argument, list):
            return [aim(item) for item in argument]
        return argument.format(trace) if isinstance(argument, str) else argument

    path = tmp_path / 'hostile.pth'
    if arguments[0] is os:  # a module cannot be pickled; its name can
        arguments = (Call(__import__, 'os'), 'system')
        name = '__import__'
    hostile = Call(function, *[aim(argument) for argument in arguments])
    torch.save(dict(state_dict={}, meta=hostile), path)
    with pytest.raises(pickle.UnpicklingError, match=name):
        load_checkpoint(ToyModel(), str(path))
    assert not trace.exists()


@checked_by_default
def test_arrays_of_objects_are_refused(tmp_path):
    torch.save(dict(state_dict={}, meta=np.array([print, {}], dtype=object)), tmp_path / 'o.pth')
    with pytest.raises(pickle.UnpicklingError, match='ObjectDType|builtins.print'):
        load_checkpoint(ToyModel(), str(tmp_path / 'o.pth'))


@pytest.mark.parametrize('package', ['numpy.core', 'numpy._core'])
@pytest.mark.parametrize('dtype', ['float32', 'float64', 'int64', 'uint8', 'bool', '<U3'])
def test_arrays_of_numpy_1_and_2(tmp_path, package, dtype):
    """Renamed as the other major version of NumPy would have written it."""
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    path = tmp_path / 'array.pth'

    class Renamed(pickle._Pickler):
        def save_global(self, obj, name=None):
            if getattr(obj, '__module__', '') in (
                'numpy.core.multiarray',
                'numpy._core.multiarray',
            ):
                self.write(f'c{package}.multiarray\n{obj.__name__}\n'.encode())
            else:
                super().save_global(obj, name)

        dispatch = {**pickle._Pickler.dispatch, type(os.system): save_global}

    class Module:
        Pickler = Renamed

    torch.save(dict(array=array, scalar=array[0, 0]), path, pickle_module=Module)
    assert package.encode() in path.read_bytes()
    loaded = torch.load(path)
    np.testing.assert_array_equal(loaded['array'], array)
    assert loaded['scalar'] == array[0, 0] and loaded['array'].dtype == array.dtype


def test_restricted_getattr():
    assert statistics_method(HistoryBuffer, 'mean') is HistoryBuffer.mean
    for owner, name in [(HistoryBuffer, 'data'), (dict, 'mean'), (os, 'system')]:
        with pytest.raises(pickle.UnpicklingError, match=repr(name)):
            statistics_method(owner, name)


@checked_by_default
def test_allow_list_does_not_grow():
    before = set(torch.serialization.get_safe_globals())
    allow_mmengine_checkpoints()
    assert set(torch.serialization.get_safe_globals()) == before
    assert getattr not in before
