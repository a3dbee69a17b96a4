# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What a training step keeps in memory when parts of a detector are frozen, and when none are.

    python tools/benchmark_memory.py CONFIG [CONFIG ...] [--size H W] [--batch-size N]

One row in Markdown per config, with and without denoising queries. MiB that autograd keeps for the
backward pass, for the parts alone and for the rest; peak of a step beyond what is in use between
two steps (on a GPU of PyTorch's allocator, on the CPU of the memory of a process that does nothing
else); gradients and state of the optimiser. See deim_mmdet/benchmark/training_memory.py.
"""

import argparse
from pathlib import Path

from command_line import errors_in_one_line
from mmengine.config import Config, DictAction

from deim_mmdet.benchmark.report import mib
from deim_mmdet.benchmark.training_memory import parts_to_freeze, training_memory_apart

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


def main(args=None) -> None:
    args = parse_args(args)
    with errors_in_one_line():
        heading = None
        for path in args.configs:
            cfg = Config.fromfile(path)
            cfg.merge_from_dict(args.cfg_options or {})
            parts = args.parts or parts_to_freeze(cfg)
            if not parts:
                raise ValueError(
                    f'{path} has no StagedFreezeHook. Say what to freeze: --parts backbone'
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


def measure(cfg: Config, parts: list, args: argparse.Namespace) -> list:
    """The cells of a row but the first two."""
    options = tuple(args.size), args.batch_size, args.amp
    frozen = training_memory_apart(cfg, parts, True, *options)
    cells = [frozen.saved_elsewhere, frozen.peak, frozen.gradients + frozen.optimizer]
    kept, peak, state = map(mib, cells)
    if args.frozen_only:
        return ['', kept, '', peak, '', '', state]
    full = training_memory_apart(cfg, parts, False, *options)
    return [
        mib(full.saved_in_parts),
        kept,
        mib(full.peak),
        peak,
        mib(full.peak - frozen.peak),
        mib(full.gradients + full.optimizer),
        state,
    ]


def row(cells: list) -> str:
    return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
    main()
