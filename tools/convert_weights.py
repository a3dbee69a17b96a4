# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Convert published DEIM and D-FINE checkpoints into MMDetection checkpoints.

    python tools/convert_weights.py deim_dfine_hgnetv2_n_coco_160e.pth work_dirs/deim_n.pth

The result is for `load_from`, `init_detector` and `DetInferencer`.
"""

import argparse
import sys
from pathlib import Path

import deim_mmdet  # noqa: F401  registers the models; makes mmdet importable with mmcv-lite
from deim_mmdet.convert import convert_checkpoint_file


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', help='published checkpoint; it is only read')
    parser.add_argument('output', help='new checkpoint')
    parser.add_argument('--config', help='write only if every weight of this model is found')
    parser.add_argument('--classes', help='text file with one class name per line')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing output')
    return parser.parse_args(args)


def main(args=None):
    args = parse_args(args)
    try:
        report = convert_checkpoint_file(
            args.input,
            args.output,
            model_state=model_state(args.config) if args.config else None,
            classes=class_names(args.classes) if args.classes else None,
            overwrite=args.overwrite,
        )
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(report)
    print(f'saved to {args.output}')


def model_state(config):
    """State dict of the model of a config file, before any weights are loaded."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    cfg = Config.fromfile(config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return MODELS.build(cfg.model).state_dict()


def class_names(path):
    """Names in a text file, empty lines left out."""
    lines = Path(path).read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip()]


if __name__ == '__main__':
    main()
