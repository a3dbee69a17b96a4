# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Find what is wrong with a COCO-format data set before training does.

    python tools/check_dataset.py ANNOTATIONS.json IMAGE_FOLDER
    python tools/check_dataset.py CONFIG.py

Prints a table of problems and what to do about each. Changes nothing. Exits with 1 when there is an
error: something that training or evaluation would refuse or get wrong.
"""

import argparse
import os
import sys
from collections import Counter

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import deim_mmdet  # noqa: F401
from deim_mmdet.datasets.checks import check_image_files, check_num_classes
from deim_mmdet.datasets.config_checks import check_config, check_files


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', help='COCO-format annotation file, or configuration (.py)')
    parser.add_argument('img_dir', nargs='?', help='image folder of the annotation file')
    parser.add_argument('--classes', nargs='+', help='class names that training will ask for')
    parser.add_argument('--num-classes', type=int, help='number of classes of the model')
    parser.add_argument(
        '--no-decode', action='store_true', help='do not open the images, only look for the files'
    )
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='threads that decode images'
    )
    parser.add_argument('--all', action='store_true', help='list every image, not the first 20')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    args = parser.parse_args(args)
    if args.source.endswith('.json') and args.img_dir is None:
        parser.error('an annotation file needs its image folder as the second argument')
    return args


def main(args=None) -> int:
    args = parse_args(args)
    init_default_scope('mmdet')
    problems = []
    if args.img_dir is None:
        cfg = Config.fromfile(args.source)
        if args.cfg_options:
            cfg.merge_from_dict(args.cfg_options)
        checked, problems = check_config(cfg)
    else:
        checked = [check_files(args.source, args.img_dir, args.classes)]
        if args.num_classes is not None and checked[0].content:
            numbers = {'num_classes': args.num_classes}
            problems = check_num_classes(numbers, checked[0].content.classes, args.source)

    for files in checked:
        problems = problems + files.problems
        if files.content and not args.no_decode and os.path.isdir(files.img_dir):
            # Missing files have been counted already.
            there = [
                image
                for image in files.content.images
                if os.path.isfile(os.path.join(files.img_dir, image['file_name']))
            ]
            results = check_image_files(there, files.img_dir, args.workers)
            label = f'images of {os.path.basename(files.ann_file)}'
            found = [p for _, p in tqdm(results, label, len(there), unit='image') if p]
            problems = problems + _shorten(found, None if args.all else 20)
    report(checked, problems)
    return int(any(problem.level == 'error' for problem in problems))


def report(checked, problems) -> None:
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=160)  # a log file has no width of its own
    for files in checked:
        if files.content:
            console.print(_summary(files), highlight=False, markup=False)
    if not problems:
        console.print('No problem found.')
        return
    table = Table(show_lines=True)
    table.add_column('', no_wrap=True)
    table.add_column('file', overflow='fold', ratio=2)
    table.add_column('problem', overflow='fold', ratio=4)
    table.add_column('what to do', overflow='fold', ratio=3)
    for problem in sorted(problems, key=lambda problem: problem.level):
        colour = 'red' if problem.level == 'error' else 'yellow'
        cells = (problem.file, problem.message, problem.remedy)
        table.add_row(
            f'[{colour}]{problem.level}[/]', *(cell.replace('[', r'\[') for cell in cells)
        )
    console.print(table)
    counts = Counter(problem.level for problem in problems)
    console.print(f'{counts["error"]} errors, {counts["warning"]} warnings. Nothing was changed.')


def _summary(files) -> str:
    content = files.content
    counts = np.bincount(content.labels[content.usable], minlength=len(content.classes))
    mode = f'{files.mode}: ' if files.mode else ''
    listed = ', '.join(f'{name} {count}' for name, count in list(zip(content.classes, counts))[:20])
    more = f', and {len(counts) - 20} more' if len(counts) > 20 else ''
    return (
        f'{mode}{files.ann_file}: {len(content.images)} images, {counts.sum()} usable of '
        f'{len(content.annotations)} annotations, {len(counts)} classes ({listed}{more})'
    )


def _shorten(problems, most):
    if most is None or len(problems) <= most:
        return problems
    from dataclasses import replace

    last = problems[most - 1]
    rest = len(problems) - most
    return [
        *problems[: most - 1],
        replace(
            last, message=f'{last.message} {rest} more images have problems; --all lists them.'
        ),
    ]


if __name__ == '__main__':
    sys.exit(main())
