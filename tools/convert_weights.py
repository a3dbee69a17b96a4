# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Convert published weights into MMDetection checkpoints, and back.

    python tools/convert_weights.py deim_dfine_hgnetv2_n_coco_160e.pth work_dirs/deim_n.pth
    python tools/convert_weights.py work_dirs/mine/epoch_12.pth mine_official.pth --to official
    python tools/convert_weights.py work_dirs/mine/epoch_12.pth mine_hf --to transformers \\
        --config work_dirs/mine/mine.py

Reads checkpoints of DEIM, D-FINE, RT-DETRv2, RT-DETR, DN-DETR, DEYO and YOLOv8, and folders (or
.safetensors files) of Hugging Face transformers with D-FINE, RT-DETRv2 or RT-DETR. Family and size
are found from the weights: the report names the configs that fit. The result is for `load_from`,
`init_detector` and `DetInferencer`, which take published .pth files as they are, too. Of a .pt file
that holds a whole pickled model, as YOLOv8's do, the tensors alone are read; nothing in it is run.
"""

import argparse
from pathlib import Path

from command_line import errors_in_one_line, refuse_other_configs
from mmengine.config import Config


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', help='weights; they are only read')
    parser.add_argument('output', help='new file, or folder for transformers')
    parser.add_argument(
        '--to',
        choices=('mmdet', 'official', 'transformers'),
        default='mmdet',
        help='mmdet: from published weights; official, transformers: from an MMDetection '
        'checkpoint of this package, whose moving average is taken',
    )
    parser.add_argument(
        '--config',
        help='config of the model. mmdet: write only if all weights fit it, whatever the classes; '
        'official: for models whose settings are not the published ones; transformers: needed',
    )
    parser.add_argument('--classes', help='mmdet: text file with one class name per line')
    parser.add_argument(
        '--family',
        help='official: RT-DETR writes weights of RT-DETRv2, the same network, under its names',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing output')
    args = parser.parse_args(args)
    if args.classes and args.to != 'mmdet':
        parser.error('--classes goes with --to mmdet: a checkpoint of ours names its classes')
    if args.family and args.to != 'official':
        parser.error('--family goes with --to official')
    return args


def main(args=None):
    args = parse_args(args)
    with errors_in_one_line():
        refuse_other_configs(*filter(None, [args.config]), order='INPUT OUTPUT --config CONFIG')
        convert(args)
    print(f'saved to {args.output}')


def convert(args):
    # registers the models; makes mmdet importable with mmcv-lite
    from deim_mmdet.convert import convert_checkpoint_file, export_checkpoint_file

    config = Config.fromfile(args.config) if args.config else None
    if args.to == 'mmdet':
        classes = class_names(args.classes) if args.classes else None
        print(convert_checkpoint_file(args.input, args.output, config, classes, args.overwrite))
    else:
        family = export_checkpoint_file(
            args.input, args.output, args.to, args.family, config, args.overwrite
        )
        print(f'names of {family}')


def class_names(path):
    """Names in a text file, empty lines left out."""
    lines = Path(path).read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip()]


if __name__ == '__main__':
    main()
