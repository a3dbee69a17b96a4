# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Export a trained detector, and compare what comes out with PyTorch.

    python tools/export.py CONFIG CHECKPOINT
    python tools/export.py CONFIG CHECKPOINT --fp16 --dynamic-batch --out deim_fp16.onnx
    python tools/export.py CONFIG CHECKPOINT --input uint8 --layout nhwc --channels bgr --resize
    python tools/export.py CONFIG CHECKPOINT --backend openvino
    python tools/export.py CONFIG CHECKPOINT --backend tensorrt --fp16 --compute-capability 7.5
    python tools/export.py CONFIG CHECKPOINT --int8 --fp16 --calibration-images FOLDER

The whole way from the image to boxes, scores and labels is inside the graph, in standard ONNX
operators. The file says how images are prepared for it; deim_mmdet.deploy.Detector reads that.
Nothing is written unless PyTorch and the file agree on a sample image. With --int8 that is the file
before it gets integers; what they cost is measured then, and printed.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from command_line import (
    errors_in_one_line,
    is_address,
    refuse_missing_files,
    refuse_missing_packages,
    refuse_other_configs,
    refuse_output,
)
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

# backend -> endings of its files, first the one that is opened
ENDINGS = {
    'onnxruntime': ['.onnx'],
    'openvino': ['.xml', '.bin'],
    'tensorrt': ['.engine', '.engine.json'],
}
# Arguments that mean nothing for another backend, or without --int8.
TENSORRT_ARGUMENTS = ('compute_capability', 'shapes', 'timing_cache', 'flavour')
INT8_ARGUMENTS = (
    'calibration_images',
    'int8_matmul',
    'int8_ends',
    'float_layers',
    'sensitivity',
    'agreement',
    'max_ap_drop',
)
# Largest accepted differences: pixels of a side and of a score.
TOLERANCES = {'float32': (0.1, 1e-4), 'float16': (1.0, 1e-2)}
# Images of the calibration folder that int8 and float are compared on.
HELD_OUT = 50
SENSITIVITY_IMAGES = 8


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the detector')
    parser.add_argument(
        'checkpoint', help='its weights, of a run here or published: a file, or https://...'
    )
    parser.add_argument(
        '--backend',
        choices=ENDINGS,
        default='onnxruntime',
        help='what runs it; default onnxruntime',
    )
    parser.add_argument(
        '--out',
        help='new file; defaults to CHECKPOINT (of an address the last part) with the ending '
        '.onnx, .xml (openvino, which writes a .bin as well) or .engine (tensorrt, a .engine.json '
        'as well)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    parser.add_argument(
        '--fp16',
        action='store_true',
        help='a strongly typed float16 graph; with openvino, weights in float16',
    )
    parser.add_argument(
        '--hw',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the input, multiples of 32 (or see --pad); defaults to those of '
        'the test pipeline, rounded up',
    )
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument('--batch-size', type=int, default=1, help='images per run; default 1')
    batch.add_argument('--dynamic-batch', action='store_true', help='any number of images')
    parser.add_argument('--dynamic-size', action='store_true', help='any height and width')
    parser.add_argument('--pad', action='store_true', help='pad to multiples of 32 in the graph')
    parser.add_argument(
        '--input',
        choices=('normalized', 'float', 'uint8'),
        default='normalized',
        help='pixels: as the network takes them, or float32 or uint8 in [0, 255]',
    )
    parser.add_argument(
        '--layout', choices=('nchw', 'nhwc'), default='nchw', help='of the input; default nchw'
    )
    parser.add_argument(
        '--channels', choices=('rgb', 'bgr'), default='rgb', help='of the input; default rgb'
    )
    parser.add_argument(
        '--resize',
        action='store_true',
        help='take images of any size and resize them in the graph, bilinear, without averaging',
    )
    parser.add_argument(
        '--original-size',
        action='store_true',
        help='second input original_hw: boxes in pixels of an image of that size',
    )
    parser.add_argument(
        '--candidates',
        action='store_true',
        help='yolov8: leave non-maximum suppression to Detector, as with tensorrt always',
    )
    parser.add_argument(
        '--opset', type=int, help='version of the ONNX operators; default 17, 19 for --int8 --fp16'
    )
    parser.add_argument(
        '--image', nargs='+', help='images to compare on; defaults to some of the test set'
    )
    parser.add_argument(
        '--tolerance',
        nargs=2,
        type=float,
        metavar=('PX', 'SCORE'),
        help='largest accepted differences; default 0.1 1e-4, with --fp16 1 1e-2',
    )
    parser.add_argument(
        '--score-threshold', type=float, default=0.3, help='what Detector keeps; default 0.3'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    add_tensorrt_arguments(parser.add_argument_group('TensorRT'))
    add_int8_arguments(parser.add_argument_group('eight-bit integers'))
    return parser.parse_args(args)


def add_tensorrt_arguments(group) -> None:
    group.add_argument(
        '--compute-capability',
        nargs='+',
        metavar='X.Y',
        help='GPUs to build for with TensorRT-RTX, none of which is needed; 7.5 is the T4. '
        'Defaults to the GPU at hand',
    )
    group.add_argument(
        '--shapes',
        nargs='+',
        type=shape_range,
        metavar='NAME=MIN,OPT,MAX',
        help='sizes of a dynamic graph, as batch=1,4,8 height=320,640,960 width=320,640,960',
    )
    group.add_argument('--timing-cache', metavar='FILE', help='measurements of earlier builds')
    group.add_argument(
        '--flavour',
        choices=('tensorrt', 'tensorrt_rtx'),
        help='defaults to what is installed; where both are, tensorrt for the GPU at hand',
    )


def shape_range(text: str) -> tuple:
    name, _, values = text.partition('=')
    try:
        smallest, best, largest = map(int, values.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'must be NAME=MIN,OPT,MAX, three whole numbers, as batch=1,4,8; got {text!r}'
        ) from None
    return name, (smallest, best, largest)


def add_int8_arguments(group) -> None:
    group.add_argument(
        '--int8',
        action='store_true',
        help='convolutions in int8, by images; what is left is float32, or float16 with --fp16',
    )
    group.add_argument('--calibration-images', metavar='FOLDER', help='images like those to come')
    group.add_argument(
        '--calibration-count',
        type=int,
        default=200,
        metavar='N',
        help='images to take of them; default 200',
    )
    group.add_argument(
        '--calibration-method',
        choices=('max', 'percentile', 'entropy'),
        default='max',
        help='value that becomes the largest integer',
    )
    group.add_argument('--int8-matmul', action='store_true', help='matrix products in int8, too')
    group.add_argument(
        '--int8-ends',
        action='store_true',
        help='also the layers that read the image, and those that compute or read results',
    )
    group.add_argument(
        '--float-layers',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="layers that stay as they are, as '/backbone/stem/*'",
    )
    group.add_argument(
        '--sensitivity', action='store_true', help='list the layers that cost most, each alone'
    )
    group.add_argument(
        '--agreement',
        action='store_true',
        help='compare detections on images of the folder, not AP on the test set, which takes long '
        'if that is large',
    )
    group.add_argument(
        '--max-ap-drop', type=float, metavar='POINTS', help='write nothing if AP falls by more'
    )


def main(args=None) -> None:
    args = parse_args(args)
    with errors_in_one_line():
        export(args, output_path(args))


def output_path(args) -> Path:
    """The file to write; what the arguments alone show to be wrong is refused."""
    endings = ENDINGS[args.backend]
    weights = Path(args.checkpoint)
    if is_address(args.checkpoint):
        weights = Path(weights.name)
    out = Path(args.out or weights.with_suffix(endings[0]))
    refuse_missing_files(args.config, args.checkpoint, *(args.image or ()))
    refuse_other_configs(args.config, order='CONFIG CHECKPOINT')
    for path in {out, *files_of(out, args.backend)}:
        refuse_output(path, args.overwrite)
    if out.suffix != endings[0]:
        raise ValueError(f'--backend {args.backend} writes files *{endings[0]}, got {out}')
    if args.backend != 'tensorrt':
        refuse_arguments(args, TENSORRT_ARGUMENTS, f'--backend tensorrt, not {args.backend}')
    if args.int8:
        refuse_int8(args)
    else:
        refuse_arguments(args, INT8_ARGUMENTS, '--int8')
    refuse_missing_packages('onnx', 'onnxruntime')
    if args.backend == 'openvino':
        refuse_missing_packages('openvino')
    return out


def files_of(out: Path, backend: str) -> list:
    """All files that a backend writes."""
    return [out.with_suffix(ending) for ending in ENDINGS[backend]]


def refuse_arguments(args, names, owner: str) -> None:
    """Refuse what was given and would have no effect."""
    for name in names:
        value = getattr(args, name)
        if value not in (None, []) and value is not False:
            raise ValueError(f'--{name.replace("_", "-")} is for {owner}')


def refuse_int8(args) -> None:
    """Refuse what --int8 cannot do."""
    if not args.calibration_images:
        raise ValueError('--int8 needs --calibration-images FOLDER')
    if args.backend == 'openvino':
        raise ValueError(
            '--int8 is for onnxruntime and tensorrt. OpenVINO computes something else from such '
            'graphs (on CPUs without VNNI its sums overflow): quantise the float file with its own '
            'NNCF'
        )
    if args.calibration_count < 1:
        raise ValueError(f'--calibration-count must be at least 1, got {args.calibration_count}')


def export(args, out: Path) -> None:
    # first, since it makes mmdet importable with mmcv-lite
    from deim_mmdet.deploy import Detector, compare_with_pytorch, describe, export_onnx
    from deim_mmdet.deploy import sample_images as images_of
    from deim_mmdet.deploy.export.description import padding_warning
    from deim_mmdet.deploy.export.graph import describe_tensor
    from deim_mmdet.deploy.export.half_range import range_report
    from deim_mmdet.new_output import refuse_to_lose

    from mmdet.apis import init_detector  # isort: skip

    refuse_to_lose(out, args.overwrite, args.checkpoint)
    target = target_of(args)
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    calibration = calibration_images(args, config)
    options = graph_options(args, config, target)
    MMLogger.get_instance('mmengine', log_level='WARNING')
    detector = init_detector(config, args.checkpoint, device='cpu')
    options = target.adapt(detector, options)
    metadata = describe(detector, config, options, score_threshold=args.score_threshold)
    if args.fp16:
        metadata = replace(metadata, precision='float16')
    target.refuse(detector, options, metadata)
    warning = padding_warning(detector, metadata)
    if warning:
        print(warning)
    images, source = images_of.sample_images(args.image, config, options.hw)
    box, score = args.tolerance or TOLERANCES[metadata.precision]

    def check(path: Path) -> None:
        difference = compare_with_pytorch(detector, Detector(path), images)
        print(f'largest difference from PyTorch on {source}: {difference}')
        if not difference.within(box, score):
            raise ValueError(
                f'that is more than {box:g} px or {score:g}: {out} was not written. Weights that '
                'are not trained differ much, since rounding decides among equal scores; '
                '--tolerance PX SCORE accepts more.'
            )

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, 'model.onnx')
        model = export_onnx(detector, graph, options, metadata)
        if options.half:
            print(range_report(model, Detector(graph).feeds(images[:1])[0]))
        if args.int8:
            check(graph)
            model, graph, check = quantize(graph, args, config, *calibration)
            metadata = replace(metadata, precision='int8')
        for line in target.write(graph, out, check, args.overwrite):
            print(line)
    sizes = ', '.join(
        f'{path.name} {path.stat().st_size / 1e6:.1f} MB' for path in files_of(out, args.backend)
    )
    print(
        f'{out}: {len(model.graph.node)} nodes, {metadata.precision}, opset {options.opset}, '
        f'{time.monotonic() - start:.0f} s ({sizes})'
    )
    for value in (*model.graph.input, *model.graph.output):
        print(f'  {describe_tensor(value)}')


def target_of(args):
    """What is to run the file; refuses what that cannot do."""
    from deim_mmdet.deploy.export.openvino_export import OpenVINOTarget
    from deim_mmdet.deploy.export.target import OnnxRuntimeTarget
    from deim_mmdet.deploy.export.tensorrt_export import TensorRTTarget

    if args.backend == 'openvino':
        return OpenVINOTarget(args.fp16)
    if args.backend == 'tensorrt':
        return TensorRTTarget(
            args.compute_capability,
            dict(args.shapes or ()),
            args.timing_cache,
            args.flavour,
            single_products=not args.int8_matmul,
        )
    return OnnxRuntimeTarget()


def graph_options(args, config: Config, target):
    from deim_mmdet.deploy import ExportOptions, InputFormat
    from deim_mmdet.deploy.export.description import input_hw
    from deim_mmdet.deploy.metadata import DIVISOR

    return ExportOptions(
        hw=tuple(args.hw or input_hw(config, 1 if args.pad else DIVISOR)),
        input_format=InputFormat(
            args.input, args.layout, args.channels, args.resize, args.pad, args.original_size
        ),
        batch_size=None if args.dynamic_batch else args.batch_size,
        dynamic_size=args.dynamic_size,
        half=args.fp16 and target.half_in_graph,
        opset=args.opset or (19 if args.int8 and args.fp16 else 17),
        candidates=args.candidates,
    )


def calibration_images(args, config: Config) -> tuple:
    """Images to calibrate on, and some others."""
    from deim_mmdet.deploy import sample_images

    if not args.int8:
        return [], []
    if args.max_ap_drop is not None and not compares_ap(args, config):
        raise ValueError('--max-ap-drop needs the test set of the config, and no --agreement')
    folder = Path(args.calibration_images)
    return sample_images.calibration_images(folder, args.calibration_count, HELD_OUT)


def compares_ap(args, config: Config) -> bool:
    """Whether int8 is judged by AP, not by detections that are found again."""
    from deim_mmdet.deploy import sample_images

    return not args.agreement and sample_images.has_test_set(config)


def quantize(graph: Path, args, config: Config, images: list, others: list) -> tuple:
    """The graph with int8 layers, its file, and a function that prints what that costs."""
    import onnx

    from deim_mmdet.deploy.export.int8_graph import Int8Graph
    from deim_mmdet.deploy.int8_report import sensitivity_report
    from deim_mmdet.deploy.sample_images import spread

    choice = dict(
        operators=('Conv', 'MatMul') if args.int8_matmul else ('Conv',),
        method=args.calibration_method,
        skip=args.float_layers,
        ends=args.int8_ends,
    )
    int8 = Int8Graph(graph, images, **choice)
    print(f'{len(int8.layers)} layers in int8, calibrated on {len(images)} images')
    if args.sensitivity:
        print(sensitivity_report(graph, spread(images, SENSITIVITY_IMAGES), **choice))
    if compares_ap(args, config):
        cost = partial(int8.cost_of_ap, config=config, max_drop=args.max_ap_drop)
    else:
        cost = partial(int8.cost_of_detections, others=others, count=HELD_OUT)
    path = int8.path if args.backend == 'tensorrt' else int8.rounded
    return onnx.load(path), path, lambda path: print(cost(path))


if __name__ == '__main__':
    sys.exit(main())
