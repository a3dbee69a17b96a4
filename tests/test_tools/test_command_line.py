# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest


@pytest.fixture
def command_line(tool):
    return tool('command_line')


def test_errors_in_one_line(command_line):
    with pytest.raises(SystemExit, match='^error: 7 is too many$'):
        with command_line.errors_in_one_line():
            raise ValueError('7 is too many')
    with pytest.raises(SystemExit, match='^nothing was written$'):
        with command_line.errors_in_one_line('nothing was written'):
            raise KeyboardInterrupt
    for also in ((), (ZeroDivisionError,)):  # a fault of ours has a traceback
        with pytest.raises(SystemExit if also else ZeroDivisionError):
            with command_line.errors_in_one_line(also=also):
                raise ZeroDivisionError


def test_missing_files_and_packages(command_line, tmp_path):
    there = tmp_path / 'there'
    there.touch()
    command_line.refuse_missing_files(there, 'https://somewhere/weights.pth')
    for missing in (tmp_path, tmp_path / 'missing'):
        with pytest.raises(FileNotFoundError, match=f'{missing}: no such file'):
            command_line.refuse_missing_files(there, missing)
    command_line.refuse_missing_packages('os')
    with pytest.raises(ImportError, match=r"nowhere is missing: .*'deim_mmdet\[deploy\]'"):
        command_line.refuse_missing_packages('os', 'nowhere')


def test_outputs(command_line, tmp_path, monkeypatch):
    there = tmp_path / 'there'
    there.touch()
    command_line.refuse_output(tmp_path / 'a' / 'b' / 'new', overwrite=False)
    command_line.refuse_output(there, overwrite=True)
    with pytest.raises(FileExistsError, match='there exists: give another name, or --overwrite'):
        command_line.refuse_output(there, overwrite=False)
    with pytest.raises(NotADirectoryError, match='there is a file'):
        command_line.refuse_output(there / 'new', overwrite=False)

    def refuse(dir):
        assert dir == tmp_path
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('tempfile.TemporaryFile', refuse)
    with pytest.raises(OSError, match=f'written to {tmp_path / "a"}: Permission denied'):
        command_line.refuse_output(tmp_path / 'a' / 'new', overwrite=False)
    assert list(tmp_path.iterdir()) == [there]
