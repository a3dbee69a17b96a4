# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Tensors of pickled models whose classes are not there, and pickles that want to do harm."""

import builtins
import importlib.util
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from deim_mmdet.convert import (
    convert_checkpoint_file,
    export_checkpoint_file,
    load_weights_only,
    read_published,
)
from deim_mmdet.convert.restricted_pickle import (
    load_without_classes,
    read_pickled_model,
    state_dict_of,
)
from tests.test_convert.foreign import forget, save
from tests.test_convert.published import published_state

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[True, False], ids=['zip', 'old format'])
def zip_format(request):
    return request.param


def test_state_of_a_model_without_its_classes(foreign, tmp_path, zip_format):
    torch.manual_seed(0)
    model = foreign.Detector()
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    path = save({'epoch': 3, 'model': model, 'ema': None}, tmp_path / 'a.pt', zip_format)
    del model
    forget()
    checkpoint, names = read_pickled_model(path)
    assert names == ['cat', 'dog']
    assert checkpoint['last_epoch'] == 3
    weights = checkpoint['model']
    assert list(weights) == list(expected)  # no cache; the tied weight twice
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value)
    assert 'foreign_models' not in sys.modules


def test_half_precision_and_the_moving_average_come_out_as_published(foreign, tmp_path, zip_format):
    models = [foreign.Detector() for _ in range(2)]
    content = dict(epoch=-1, model=models[0], ema=models[1].half(), optimizer=None)
    path = save(content, tmp_path / 'a.pt', zip_format)
    forget()
    checkpoint, _ = read_published(path)
    assert list(checkpoint) == ['ema', 'model']
    average = checkpoint['ema']['module']
    assert average['model.0.conv.weight'].dtype == torch.float32
    assert average['model.0.bn.num_batches_tracked'].dtype == torch.int64
    torch.testing.assert_close(
        average['model.0.conv.weight'],
        models[1].state_dict()['model.0.conv.weight'].float(),
        rtol=0,
        atol=0,
    )


def test_a_model_saved_alone(foreign, tmp_path):
    path = save(foreign.Detector(), tmp_path / 'a.pt')
    forget()
    assert 'model.2.0.conv.bias' in read_published(path)[0]['model']


def test_views_and_empty_tensors(tmp_path, zip_format):
    base = torch.arange(24.0).view(4, 6)
    content = dict(view=base[1:3, ::2].t(), empty=torch.empty(0, 3), scalar=torch.tensor(7))
    path = save(content, tmp_path / 'a.pt', zip_format)
    loaded = load_without_classes(path)
    for key, value in content.items():
        torch.testing.assert_close(loaded[key], value)


def test_yolov8_through_the_converter(foreign, tmp_path):
    weights = {
        k: v.half() if v.is_floating_point() else v for k, v in published_state('yolov8n').items()
    }
    model = foreign.Named(weights)
    model.names = {i: f'class {i}' for i in range(80)}
    source = save(dict(epoch=-1, model=model, train_args={}), tmp_path / 'yolov8n.pt')
    del model
    forget()
    report = convert_checkpoint_file(source, tmp_path / 'out.pth')
    assert report.family == 'YOLOv8'
    assert len(report.mapped) == len(weights) and not report.dropped
    assert 'Configs that fit: ' in report.configs and 'yolov8_n_8xb16-500e_coco' in report.configs
    converted = load_weights_only(tmp_path / 'out.pth')
    assert converted['meta']['dataset_meta']['classes'][79] == 'class 79'
    torch.testing.assert_close(
        converted['state_dict']['backbone.stem.conv.weight'],
        weights['model.0.conv.weight'].float(),
    )

    config = Config.fromfile(ROOT / 'configs/yolov8/yolov8_n_8xb16-500e_coco.py')
    assert convert_checkpoint_file(source, tmp_path / 'again.pth', config).fits
    family = export_checkpoint_file(tmp_path / 'out.pth', tmp_path / 'back.pt', config=config)
    assert family == 'YOLOv8'
    back = load_weights_only(tmp_path / 'back.pt')['model']
    assert set(back) == set(weights)


# -- harm


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


HARMS = {
    'os.system': lambda: Calls(os.system, 'touch evil_was_here'),
    'eval': lambda: Calls(eval, "open('evil_was_here', 'w')"),
    'exec through getattr': lambda: Calls(getattr, Calls(__import__, 'os'), 'system'),
    'import': lambda: Calls(importlib.util.spec_from_file_location, 'evil', 'evil_was_here'),
    'open': lambda: Calls(builtins.open, 'evil_was_here', 'w'),
}


@pytest.mark.parametrize('harm', HARMS)
def test_nothing_is_run(foreign, tmp_path, monkeypatch, zip_format, harm):
    monkeypatch.chdir(tmp_path)
    model = foreign.Detector()
    model.hook = HARMS[harm]()  # read with the model
    path = save(dict(model=model, other=HARMS[harm]()), tmp_path / 'a.pt', zip_format)
    forget()
    before = sorted(os.listdir(tmp_path))
    checkpoint, _ = read_published(path)
    assert 'model.0.conv.weight' in checkpoint['model']
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize('harm', HARMS)
def test_a_file_without_a_model_is_refused_as_before(tmp_path, monkeypatch, zip_format, harm):
    monkeypatch.chdir(tmp_path)
    path = save(dict(model=HARMS[harm]()), tmp_path / 'a.pt', zip_format)
    with pytest.raises(ValueError, match='asks for .*was not loaded'):
        read_published(path)
    assert os.listdir(tmp_path) == ['a.pt']


def test_a_pickle_cannot_change_what_later_ones_use(tmp_path):
    """BUILD sets attributes of whatever is on the stack, functions included."""
    poisoned = (
        b'\x80\x02ctorch._utils\n_rebuild_parameter\n'
        b'N}X\x0c\x00\x00\x00__defaults__(K\x01ts\x86b.'  # (None, {'__defaults__': (1,)})
    )
    archive = tmp_path / 'a.pt'
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('a/data.pkl', poisoned)
    changed = load_without_classes(archive)
    assert changed.__defaults__ == (1,)
    assert torch._utils._rebuild_parameter.__defaults__ is None
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('a/data.pkl', b'\x80\x02ctorch._utils\n_rebuild_parameter\n.')
    assert load_without_classes(archive).__defaults__ is None


def test_tensors_stay_within_their_storage(tmp_path):
    class Outside:
        def __reduce__(self):
            storage = torch.zeros(4).storage()
            args = storage, 0, (1000,), (1,), False, OrderedDict()
            return torch._utils._rebuild_tensor_v2, args

    path = save(Outside(), tmp_path / 'a.pt')
    with pytest.raises(RuntimeError, match='out of bounds'):
        load_without_classes(path)


def test_a_module_within_itself_and_damaged_files(foreign, tmp_path, zip_format):
    model = foreign.Detector()
    model._modules['self'] = model
    path = save(dict(model=model), tmp_path / 'a.pt', zip_format)
    forget()
    with pytest.raises(ValueError, match='self contains itself'):
        state_dict_of(load_without_classes(path)['model'])
    with pytest.raises(ValueError, match='is damaged.*contains itself'):
        read_published(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match='is damaged or truncated'):
        read_published(path)


def test_other_pickles_are_no_checkpoints(tmp_path):
    (tmp_path / 'a.pt').write_bytes(pickle.dumps([1]))
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        load_without_classes(tmp_path / 'a.pt')
