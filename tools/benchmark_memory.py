# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What a training step keeps in memory when parts of a detector are frozen, and when none are.

    python tools/benchmark_memory.py CONFIG [CONFIG ...] [--size H W] [--batch-size N]

One row in Markdown per config, with and without denoising queries. MiB that autograd keeps for the
backward pass, for the parts alone and for the rest; peak of a step beyond what is in use between
two steps (on a GPU of PyTorch's allocator, on the CPU of the memory of a process that does nothing
else); gradients and state of the optimiser. See deim_mmdet/training_memory.py.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

import deim_mmdet  # noqa: F401  makes mmdet importable with mmcv-lite
from deim_mmdet.training_memory import parts_to_freeze, training_memory_apart

COLUMNS = (
    'model',
    'denoising',
    'kept by {parts}',
    'kept by the rest',
    'peak, all trained',
    'peak, frozen',
    'less',
    'gradients and optimiser, all trained',
    'the same, frozen',
)


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'configs', nargs='+', metavar='CONFIG', help='config of a detector with a bbox_head'
    )
    parser.add_argument(
        '--size', type=int, nargs=2, default=(640, 640), metavar=('H', 'W'), help='input in pixels'
    )
    parser.add_argument('--batch-size', type=int, default=2, help='images')
    parser.add_argument(
        '--parts', nargs='+', help="what is frozen; defaults to that of the config's hook"
    )
    parser.add_argument('--frozen-only', action='store_true', help='do not train everything')
    parser.add_argument('--amp', action='store_true', help="with the config's mixed precision")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    return parser.parse_args(args)


def main(args=None) -> int:
    args = parse_args(args)
    heading = None
    for path in args.configs:
        try:
            cfg = Config.fromfile(path)
        except OSError as error:
            raise SystemExit(f'error: {error}') from None
        cfg.merge_from_dict(args.cfg_options or {})
        parts = args.parts or parts_to_freeze(cfg)
        if not parts:
            raise SystemExit(
                f'error: {path} has no StagedFreezeHook. Say what to freeze: --parts backbone'
            )
        if heading != parts:
            heading = parts
            columns = [column.format(parts=', '.join(parts)) for column in COLUMNS]
            print(row(columns), row(['---'] * len(columns)), sep='\n')
        for denoising in ('with', 'without') if cfg.model.get('denoising') else ('none',):
            if denoising == 'without':
                cfg.model.denoising = None
            cells = measure(cfg, parts, args)
            print(row([Path(path).stem, denoising, *cells]), flush=True)
    return 0


def measure(cfg: Config, parts: list, args: argparse.Namespace) -> list:
    """The cells of a row but the first two."""
    options = tuple(args.size), args.batch_size, args.amp
    try:
        frozen = training_memory_apart(cfg, parts, True, *options)
        full = None if args.frozen_only else training_memory_apart(cfg, parts, False, *options)
    except ValueError as error:
        raise SystemExit(f'error: {error}') from None
    return [
        mib(full and full.saved_in_parts),
        mib(frozen.saved_elsewhere),
        mib(full and full.peak),
        mib(frozen.peak),
        mib(full and full.peak - frozen.peak),
        mib(full and full.gradients + full.optimizer),
        mib(frozen.gradients + frozen.optimizer),
    ]


def mib(number) -> str:
    return '' if number is None else f'{number / 2**20:,.0f}'


def row(cells: list) -> str:
    return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
    sys.exit(main())
