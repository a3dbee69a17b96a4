# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
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
