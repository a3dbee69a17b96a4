# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""AP of exported files on the test set of a config, beside that of PyTorch.

    python tools/test_exported.py CONFIG model.onnx model_fp16.onnx --checkpoint CHECKPOINT

Exported files see the image files themselves: what Detector does to them is tested as well.
"""

import argparse
import os
import sys
from typing import Iterable

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

import deim_mmdet  # noqa: F401  registers the models; makes mmdet importable with mmcv-lite
from deim_mmdet.deploy.evaluation import evaluate, predictor


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with the test set')
    parser.add_argument('files', nargs='+', help='files that tools/export.py wrote')
    parser.add_argument('--checkpoint', help='weights to test with PyTorch, too')
    parser.add_argument('--threads', type=int, help='threads of ONNX Runtime')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    return parser.parse_args(args)


def main(args=None) -> None:
    args = parse_args(args)
    MMLogger.get_instance('mmengine', log_level='WARNING')
    try:
        config = Config.fromfile(args.config)
        if args.cfg_options:
            config.merge_from_dict(args.cfg_options)
        init_default_scope(config.get('default_scope', 'mmdet'))
        show({name: evaluate(config, run) for name, run in runs(args, config)})
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None


def runs(args, config: Config) -> Iterable[tuple]:
    """(name, function from a batch of the test set to predictions) of everything to test."""
    from deim_mmdet.deploy import Detector

    # opened first: a file that is missing is told before anything runs
    detectors = {path: Detector(path, 0.0, threads=args.threads) for path in args.files}
    if args.checkpoint:
        from mmdet.apis import init_detector

        detector = init_detector(config, args.checkpoint, device='cpu')
        yield 'PyTorch', detector.test_step
    for path, detector in detectors.items():
        meta = detector.metadata
        yield f'{os.path.basename(path)}, {meta.precision}', predictor(detector)


def show(results: dict) -> None:
    table = Table()
    table.add_column('')
    names = list(next(iter(results.values())))
    for name in names:
        table.add_column(name.split('/')[-1], justify='right')
    for title, metrics in results.items():
        table.add_row(title, *(f'{metrics[name]:.4f}' for name in names))
    Console(width=160 if not sys.stdout.isatty() else None).print(table)


if __name__ == '__main__':
    main()
