# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import signal
import subprocess
import sys

import pytest

from deim_mmdet.datasets.digits_in_scenes import DigitsOptions

from .conftest import TOOLS


@pytest.fixture
def command_line(tool):
    return tool('command_line')


def test_errors_in_one_line(command_line, capsys):
    with pytest.raises(SystemExit, match='^error: 7 is too many$'):
        with command_line.errors_in_one_line():
            raise ValueError('7 is too many')
    with pytest.raises(SystemExit, match='^130$'):
        with command_line.errors_in_one_line('nothing was written'):
            raise KeyboardInterrupt
    assert capsys.readouterr().err == 'nothing was written\n'
    for also in ((), (ZeroDivisionError,)):  # a fault of ours has a traceback
        with pytest.raises(SystemExit if also else ZeroDivisionError):
            with command_line.errors_in_one_line(also=also):
                raise ZeroDivisionError


def test_ctrl_c_while_a_tool_imports():
    """Python then ends by the signal, of which shells make 130."""
    code = """
import command_line, os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=TOOLS, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, 'Stopped.\n')


QUICK = ('convert_weights', 'demo_deyo', 'export', 'make_digits', 'mmdeploy_convert')


@pytest.mark.parametrize('name', QUICK)
def test_help_imports_no_pytorch(name):
    """Which takes seconds."""
    code = f"""
import runpy, sys
sys.modules.update(torch=None, mmdet=None, deim_mmdet=None)
sys.argv = ['{name}.py', '--help']
sys.path.insert(0, '.')
runpy.run_path('{name}.py', run_name='__main__')
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=TOOLS, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('usage: '), done.stderr


def test_defaults_of_make_digits(tool):
    module = tool('make_digits')
    assert module.options_of(module.parse_args([])) == DigitsOptions()


def test_missing_files_and_packages(command_line, tmp_path):
    there = tmp_path / 'there'
    there.touch()
    command_line.refuse_missing_files(there, 'https://somewhere/weights.pth')
    with pytest.raises(FileNotFoundError, match='missing: no such file'):
        command_line.refuse_missing_files(there, tmp_path / 'missing')
    with pytest.raises(IsADirectoryError, match=f'{tmp_path} is a folder: name a file'):
        command_line.refuse_missing_files(tmp_path)
    command_line.refuse_missing_packages('os')
    with pytest.raises(ImportError, match=r"nowhere is missing: .*'\.\[deploy\]'"):
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
