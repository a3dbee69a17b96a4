# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pickle

import pytest
import torch
from mmengine.runner import load_checkpoint

from deim_mmdet.compat import broken_files


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(torch.nn.Linear(1, 1).state_dict(), path)
    return path


def test_checkpoints_load_as_ever(weights):
    broken_files.install()  # a second time changes nothing
    load_checkpoint(torch.nn.Linear(1, 1), str(weights), strict=True)
    torch.save({'weight': torch.zeros(1)}, weights, _use_new_zipfile_serialization=False)
    assert load_checkpoint(torch.nn.Identity(), str(weights)) == {'weight': torch.zeros(1)}
    with pytest.raises(FileNotFoundError, match='no_such.pth can not be found'):
        load_checkpoint(torch.nn.Identity(), 'no_such.pth')


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'weights.pth is empty'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\n', 'is a git-lfs pointer'),
        (b'\n<!DOCTYPE html><html>', 'is a web page'),
        (b'\x80\x02$', 'is damaged or truncated: download it again'),
        (None, r'\(\d+ bytes\) is damaged or truncated: download it again'),
    ],
)
def test_files_that_are_none(weights, content, message):
    if content is None:  # half of it
        content = weights.read_bytes()
        content = content[: len(content) // 2]
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(torch.nn.Linear(1, 1), str(weights))


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match='is a folder: name a checkpoint.*convert_weights.py'):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path))


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'),
    reason='before PyTorch 2.6 files are not checked by default',
)
def test_a_pickled_model_is_refused_without_bad_advice(weights):
    torch.save(dict(model=torch.nn.Linear(1, 1)), weights)
    with pytest.raises(pickle.UnpicklingError, match='convert_weights.py') as caught:
        load_checkpoint(torch.nn.Linear(1, 1), str(weights))
    message = str(caught.value)
    assert 'weights.pth holds more than weights' in message
    assert 'it asks for GLOBAL torch.nn.modules.linear.Linear)' in message
    assert 'weights_only' not in message and 'safe_globals' not in message
