# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Runs a tool of mmdet with this plugin imported first.

``python -m deim_mmdet.run TOOL [ARGUMENTS]``, TOOL relative to mmdet's tools, for instance
``analysis_tools/confusion_matrix.py``. Most of mmdet's tools import ``mmdet.datasets`` or
``mmdet.evaluation`` before they read the config and its ``custom_imports``, which is too early with
mmcv-lite. ``tools/train.py`` and ``tools/test.py`` come through here as well.
"""

import runpy
import sys
from pathlib import Path

import mmdet
import torch.distributed as dist
from mmengine.config import Config

from deim_mmdet.compat.custom_imports import check_custom_imports

# mmengine's own choice of a wrapper fails on the CPU; it differs in nothing else.
CPU_MODEL_WRAPPER = 'model_wrapper_cfg.type=AnyDeviceDistributedDataParallel'
LAUNCHED_TOOLS = ('train', 'test')


def run_mmdet_tool(tool, arguments):
    """Runs a tool of the installed mmdet, unmodified, as ``__main__``.

    Args:
        tool (str): Path of the tool below mmdet's tools, with or without '.py'.
        arguments (list[str]): Its command line.

    Raises:
        FileNotFoundError: mmdet has no such tool.
        ValueError: The config among the arguments uses this plugin without importing it.
    """
    path = find_mmdet_tool(tool)
    config = next((a for a in arguments if a.endswith('.py') and Path(a).is_file()), None)
    if config is not None:
        config = Config.fromfile(config)
        check_custom_imports(config)
        if tool in LAUNCHED_TOOLS and _is_cpu_rank() and 'model_wrapper_cfg' not in config:
            arguments = [*arguments, '--cfg-options', CPU_MODEL_WRAPPER]
    sys.argv = [str(path), *arguments]
    # As `python path` would have it: some of the tools import their neighbours.
    sys.path[0] = str(path.parent)
    runpy.run_path(str(path), run_name='__main__')


def find_mmdet_tool(tool):
    """Path of a tool, in an installed mmdet or in a source tree of it."""
    package = Path(mmdet.__file__).parent
    folders = [package / '.mim' / 'tools', package.parent / 'tools']
    for folder in folders:
        for name in (tool, f'{tool}.py'):
            if (folder / name).is_file():
                return folder / name
    present = [str(path.relative_to(folder)) for folder in folders for path in folder.rglob('*.py')]
    raise FileNotFoundError(
        f'mmdet {mmdet.__version__} has no tool {tool!r}. Its tools: {", ".join(sorted(present))}.'
    )


def _is_cpu_rank():
    return dist.is_available() and dist.is_initialized() and dist.get_backend() == 'gloo'


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    run_mmdet_tool(sys.argv[1], sys.argv[2:])


if __name__ == '__main__':
    main()
