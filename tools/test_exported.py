# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""AP of exported files on the test set of a config, and their differences from PyTorch.

    python tools/test_exported.py CONFIG --checkpoint CHECKPOINT
    python tools/test_exported.py CONFIG model.onnx model_fp16.onnx --checkpoint CHECKPOINT

Without files, the checkpoint is exported in all forms that a CPU runs: for ONNX Runtime and for
OpenVINO, in float32 and in float16. Exported files see the image files themselves: what Detector
does to them is tested as well. Differences from PyTorch are the largest of a side, in pixels of the
input (px), and of a score, among the detections that matter.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List

from command_line import (
    errors_in_one_line,
    refuse_missing_files,
    refuse_missing_packages,
    refuse_other_configs,
)
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

# name of the file, arguments of tools/export.py
FORMS = {
    'float32.onnx': [],
    'float16.onnx': ['--fp16'],
    'float32.xml': ['--backend', 'openvino'],
    'float16.xml': ['--backend', 'openvino', '--fp16'],
}


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with the test set')
    parser.add_argument('files', nargs='*', help='files that tools/export.py wrote')
    parser.add_argument('--checkpoint', help='weights to test with PyTorch, too')
    parser.add_argument(
        '--hw',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size that images are resized to, by PyTorch and for files of dynamic size; defaults '
        'to that of the test pipeline, and of each file',
    )
    parser.add_argument(
        '--images', type=int, help='images to find differences on; defaults to the whole test set'
    )
    parser.add_argument('--threads', type=int, help='threads of the CPU for each backend')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    args = parser.parse_args(args)
    if args.images is not None and args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    if not args.files and not args.checkpoint:
        parser.error('give files, or --checkpoint, which is exported then')
    return args


def main(args=None) -> None:
    args = parse_args(args)
    MMLogger.get_instance('mmengine', log_level='WARNING')
    with errors_in_one_line(), tempfile.TemporaryDirectory() as scratch:
        refuse_missing_files(args.config, *args.files, *filter(None, [args.checkpoint]))
        refuse_other_configs(args.config, order='CONFIG FILES')
        if not args.files:
            refuse_missing_packages('onnx', 'onnxruntime')
        rows = []
        for row in run(args, Path(scratch)):
            print(in_one_line(row), flush=True)
            rows.append(row)
        show(rows)


def run(args, scratch: Path) -> Iterator[Dict[str, str]]:
    """Rows of the table."""
    # first, since it makes mmdet importable with mmcv-lite
    from deim_mmdet.deploy import Detector
    from deim_mmdet.deploy.evaluation import evaluate, predictor
    from deim_mmdet.deploy.sample_images import test_images

    from mmdet.apis import init_detector  # isort: skip

    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    if args.hw:
        resize_tests(config, args.hw)
    init_default_scope(config.get('default_scope', 'mmdet'))
    files = args.files or export_all(args, config, scratch)
    # opened first: a file that is of no use is told before anything runs
    detectors = [Detector(path, 0.0, args.hw, args.threads) for path in files]
    detector = None
    if args.checkpoint:
        detector = init_detector(config, args.checkpoint, device='cpu')
        yield {'': 'PyTorch', **as_cells(evaluate(config, detector.test_step))}
    for path, exported in zip(files, detectors):
        title = f'{exported.runner.name}, {exported.metadata.precision}'
        if args.files:
            title = f'{Path(path).name}: {title}'
        row = {'': title, **as_cells(evaluate(config, predictor(exported)))}
        if detector is not None:
            row.update(differences(detector, exported, test_images(config, args.images)))
        yield row


def resize_tests(config: Config, hw) -> None:
    """Let the test pipeline make images of another size."""
    from deim_mmdet.deploy.export.description import find_pipeline

    for step in find_pipeline(config.test_dataloader.dataset):
        if step['type'] == 'Resize':
            step['scale'] = tuple(hw[::-1])
        elif step['type'] == 'Pad' and 'size' in step:
            step['size'] = tuple(hw[::-1])


def export_all(args, config: Config, folder: Path) -> List[Path]:
    """The checkpoint in all forms that can be run here."""
    from deim_mmdet.deploy.runners import BACKENDS
    from deim_mmdet.deploy.runners.runner import import_backend

    config.dump(str(folder / 'config.py'))
    size = ['--hw', *map(str, args.hw)] if args.hw else []
    files = []
    for name, form in FORMS.items():
        backend = BACKENDS[Path(name).suffix]
        try:
            import_backend(backend)
        except ImportError as error:
            print(f'{name} is left out: {error}')
            continue
        command = [Path(__file__).with_name('export.py'), folder / 'config.py', args.checkpoint]
        done = subprocess.run(
            [sys.executable, *command, '--out', folder / name, *form, *size],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ValueError(f'export failed:\n{done.stderr.strip()}')
        print(f'{name} is exported', flush=True)
        files.append(folder / name)
    return files


def as_cells(found: Dict[str, float]) -> Dict[str, str]:
    """Metrics by their short names, as 'AP50' for 'coco/bbox_mAP_50'."""
    names = {name: re.sub('^bbox_mAP_?', 'AP', name.split('/')[-1]) for name in found}
    return {names[name]: f'{value:.4f}' for name, value in found.items()}


def differences(detector, exported, images: list) -> Dict[str, str]:
    from deim_mmdet.deploy import compare_with_pytorch

    found = compare_with_pytorch(detector, exported, images)
    return {
        'px': f'{found.box:.2g}',
        'score': f'{found.score:.2g}',
        'compared': str(found.count),
        'missing': str(found.missing),
    }


def in_one_line(row: Dict[str, str]) -> str:
    """As 'PyTorch: AP 0.7140'; the table has the rest."""
    title, first, *others = row
    names = [first, *(name for name in others if name in ('px', 'score', 'missing'))]
    return f'{row[title]}: ' + ', '.join(f'{name} {row[name]}' for name in names)


def show(rows: List[Dict[str, str]]) -> None:
    """A table; cells that a row does not have stay empty."""
    table = Table()
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, justify='right' if name else 'left')
    for row in rows:
        table.add_row(*(row.get(name, '') for name in names))
    Console(width=160 if not sys.stdout.isatty() else None).print(table)


if __name__ == '__main__':
    main()
