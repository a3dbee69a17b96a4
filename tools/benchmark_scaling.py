# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How matching grows with the objects, and throughput with the processes.

    python tools/benchmark_scaling.py CONFIG [--objects 10 30 100 300] [--batches 1 4 8 16 32]
    python tools/benchmark_scaling.py CONFIG --processes 1 2 --size 192 --batch-size 8

Matching and losses are timed on made-up predictions of the shapes that the model has. Beside each
step stand nanoseconds for each entry of the cost matrix (sets x objects x queries): where they do
not rise, the step does not grow faster than the matrix. Processes train on the CPU, one thread
each, on images of their own.
"""

import argparse

import torch
from command_line import errors_in_one_line, positive
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

import deim_mmdet  # noqa: F401  makes mmdet importable with mmcv-lite
from deim_mmdet.benchmark.report import milliseconds, print_conditions, print_table
from deim_mmdet.benchmark.scaling import (
    STEPS,
    images_per_second,
    matching_times,
    train_together,
)
from deim_mmdet.benchmark.training_step import StepOptions, build_model


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of an RTDETR or DFINE, with DEIM or without')
    parser.add_argument(
        '--objects', type=positive, nargs='*', default=(10, 30, 100, 200, 300), help='in each image'
    )
    parser.add_argument(
        '--batches',
        type=positive,
        nargs='*',
        default=(1, 2, 4, 8, 16, 32),
        help='images of 60 objects',
    )
    parser.add_argument('--runs', type=positive, default=9, help='timed runs of each size')
    parser.add_argument('--processes', type=positive, nargs='*', default=(), help='how many')
    parser.add_argument('--size', type=positive, default=192, help='side of their images')
    parser.add_argument('--batch-size', type=positive, default=8, help='images of each process')
    parser.add_argument('--steps', type=positive, default=10, help='timed steps of each process')
    parser.add_argument('--device', default='cpu', help='where matching is timed')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    return parser.parse_args(args)


def main(args=None) -> None:
    args = parse_args(args)
    MMLogger.get_instance('mmdet', log_level='WARNING')  # no line per initialised tensor
    with errors_in_one_line():
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options or {})
        print_conditions(args.config)
        if args.processes:
            show_throughput(config, args)
        else:
            show_matching(config, args)


def show_matching(config: Config, args) -> None:
    torch.manual_seed(0)
    model = build_model(config, args.device)
    by_objects = [(8, objects) for objects in args.objects]
    by_images = [(images, 60) for images in args.batches]
    rows = [
        (
            str(times.batch_size),
            str(times.objects),
            f'{times.entries / 1e6:.2f}',
            *(f'{milliseconds(t)} ({1e9 * t / times.entries:.1f})' for t in times.seconds.values()),
        )
        for times in matching_times(model, by_objects + by_images, args.runs)
    ]
    print('milliseconds (nanoseconds per entry of the cost matrix)')
    print_table(('images', 'objects', 'million entries', *STEPS), *rows)


def show_throughput(config: Config, args) -> None:
    options = StepOptions((args.size, args.size), args.batch_size, objects=10)
    print(
        f'{options.batch_size} images of {args.size} x {args.size} in each process, one thread each'
    )
    speeds = [
        images_per_second(train_together(config, options, n, args.steps)) for n in args.processes
    ]
    rows = [
        (str(n), f'{speed:.1f}', f'{speed / speeds[0]:.2f}')
        for n, speed in zip(args.processes, speeds)
    ]
    print_table(('processes', 'images per second', 'times the first'), *rows)


if __name__ == '__main__':
    main()
