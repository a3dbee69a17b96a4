# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Parameters and GFLOPs of a detector, part by part.

    python tools/model_info.py CONFIG [--size H W]

The detector may be one of this package or of mmdet; no weights or data are needed. GFLOPs are
those of the deploy form, for one image, counted as in the papers; the products inside attention,
which these leave out, stand in a column of their own (see deim_mmdet/model_info.py).
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import List

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

from deim_mmdet.model_info import PartInfo, model_info


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='configuration of the detector')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='image height and width in pixels; defaults to image_hw of the config, or 640 640',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object, exact numbers')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    return parser.parse_args(args)


def main(args=None) -> int:
    args = parse_args(args)
    try:
        cfg = Config.fromfile(args.config)
    except OSError as error:
        raise SystemExit(f'error: {error}') from None
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if 'model' not in cfg:
        raise SystemExit(f'error: {args.config} has no model. Name the config of a detector.')
    hw = tuple(args.size or cfg.get('image_hw', (640, 640)))
    try:
        parts = model_info(cfg.model, hw)
    except (NotImplementedError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    if args.json:
        print(json.dumps(dict(size=hw, parts=[dataclasses.asdict(part) for part in parts])))
    else:
        show(parts, f'{Path(args.config).stem}, {hw[0]} x {hw[1]} pixels')
    return 0


def show(parts: List[PartInfo], title: str) -> None:
    table = Table(title=title, title_justify='left')
    table.add_column('part')
    for column in ('parameters', 'deploy form', 'GFLOPs', '+ attention'):
        table.add_column(column, justify='right')
    for part in parts:
        if part.name == 'total':
            table.add_section()
        table.add_row(
            part.name,
            f'{part.params:,}',
            f'{part.deploy_params:,}',
            f'{part.flops / 1e9:.3f}',
            f'{part.attention_flops / 1e9:.3f}',
        )
    Console().print(table)


if __name__ == '__main__':
    sys.exit(main())
