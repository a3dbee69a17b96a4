# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What the tools do alike, before and after their work.

PyTorch and mmdet take seconds to import. Nothing here does, so what the arguments alone show is
told at once.
"""

import argparse
import os
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

CONFIG_ENDINGS = ('.py', '.json', '.yaml', '.yml')
INTERRUPTED = 130  # what shells make of Ctrl-C
SCOPE_NOISE = (
    'Failed to search registry with scope "mmdet" in the "{0}" registry tree. As a workaround, the '
    'current "{0}" registry in "mmdeploy" is used to build instance. This may cause unexpected '
    'failure when running the built modules. Please check whether "mmdet" is a correct scope, or '
    'whether the registry is initialized.'
)
# What mmdeploy says in every run. It means nothing for what is converted or tested.
MMDEPLOY_NOISE = (
    *(SCOPE_NOISE.format(name) for name in ('Codebases', 'mmdet_tasks', 'backend_detectors')),
    *(
        f'Backend manager of `{name}` has already been registered.'
        for name in ('onnxruntime', 'openvino', 'tensorrt')
    ),
    'DeprecationWarning: get_onnx_config will be deprecated in the future. ',
)


def tell_of_ctrl_c_in_one_line(kind, error, traceback) -> None:
    """As ``sys.excepthook``: Ctrl-C while a tool still imports what it needs is no fault."""
    if issubclass(kind, KeyboardInterrupt):
        print('Stopped.', file=sys.stderr)  # Python then ends as programs do that were interrupted
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = tell_of_ctrl_c_in_one_line


@contextmanager
def errors_in_one_line(interrupted='Stopped.', also=()):
    """Let what is wrong with the input end the program in one line, not in a traceback.

    Args:
        interrupted (str): What to say after Ctrl-C. Defaults to 'Stopped.'.
        also (tuple[type]): Errors that mean so besides the usual ones.
    """
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError, *also) as error:
        raise SystemExit(f'error: {error}') from None
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def positive(text: str) -> int:
    """As ``type`` of an argument: a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number of at least 1, got {text}')
    return number


def refuse_missing_files(*paths) -> None:
    """Refuse a file that is not there; whether an address can be loaded is seen later."""
    for path in paths:
        if os.path.isdir(os.path.expanduser(path)):
            raise IsADirectoryError(f'{path} is a folder: name a file')
        if not is_address(path) and not os.path.isfile(os.path.expanduser(path)):
            raise FileNotFoundError(f'{path}: no such file')


def refuse_other_configs(*paths, order: str) -> None:
    """Refuse what is no config by its name, as a checkpoint where the config has to be.

    Args:
        paths (str): What should be configs.
        order (str): How the arguments follow each other, as 'CONFIG CHECKPOINT'.
    """
    for path in paths:
        if Path(path).suffix not in CONFIG_ENDINGS:
            raise ValueError(
                f'{path} is no config ({", ".join(CONFIG_ENDINGS)}); the arguments are {order}, in '
                'this order'
            )


def is_address(path) -> bool:
    """Whether weights are to be loaded from elsewhere, as from https://..."""
    return '://' in str(path)


def refuse_missing_packages(*names: str, extra: str = 'deploy') -> None:
    """Name the extra of this package that has what is missing."""
    for name in names:
        if find_spec(name) is None:
            from deim_mmdet.deploy.extras import how_to_install

            raise ImportError(f'{name} is missing: {how_to_install(extra)}')


def refuse_output(path, overwrite: bool) -> None:
    """Refuse a new file that is there already, or that cannot be written."""
    path = Path(path)
    if path.is_file() and not overwrite:
        raise FileExistsError(f'{path} exists: give another name, or --overwrite.')
    refuse_folder(path.absolute().parent)


def refuse_folder(path) -> None:
    """Refuse a folder that cannot be written to, or cannot be made."""
    path = Path(path).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f'nothing can be written to {path}: {there} is a file.')
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f'nothing can be written to {path}: {error.strerror}.') from None


def silence_mmdeploy() -> None:
    """Leave :data:`MMDEPLOY_NOISE` out of mmdeploy's log, and nothing else."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance('mmdeploy', log_level='INFO')  # as mmdeploy would make it
    logger.addFilter(lambda record: record.getMessage() not in MMDEPLOY_NOISE)
