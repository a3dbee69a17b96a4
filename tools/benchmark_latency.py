# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How long a detector takes for an image: PyTorch, ONNX Runtime, OpenVINO, TensorRT.

    python tools/benchmark_latency.py CONFIG [CHECKPOINT]
    python tools/benchmark_latency.py model.onnx model.xml model.engine
    python tools/benchmark_latency.py CONFIG --backends transformers pytorch compile
    python tools/benchmark_latency.py CONFIG CHECKPOINT --json new.json --compare old.json
    python tools/benchmark_latency.py new.json --compare old.json

The protocol of the papers: one image of 640 x 640, float16 on GPUs, warm-up, 1000 runs. Candidates
take turns, a few runs each, so that whatever else happens on the machine happens to all. Times are
medians and percentiles of milliseconds of three stages:

    network     prepared image to class scores and boxes of all queries: no post-processing
    detections  prepared image to the best boxes, scores and labels
    end to end  image array to boxes in its pixels

On a GPU inputs and results of the first two lie there, and its own clock times them (ONNX Runtime:
the clock on the wall).

A config is built in its deploy form, and exported for what needs a file; without a checkpoint it
has random weights, which take as long. Of an ONNX file that another program exported, the graph is
timed in ONNX Runtime. With transformers in --backends the same weights are timed in Hugging Face
transformers. Reports are compared only if they are of the same config, kind of machine and
protocol.
"""

import argparse
import datetime
import sys
import tempfile
from pathlib import Path

from command_line import (
    errors_in_one_line,
    refuse_missing_files,
    refuse_output,
)

BACKENDS = ('pytorch', 'compile', 'onnxruntime', 'openvino', 'tensorrt')
PEERS = ('transformers', 'transformers-compile')


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='SOURCE',
        help='config (.py) and, behind it, its checkpoint (.pth); files that tools/export.py wrote '
        '(.onnx, .xml, .engine); or one report (.json) to show',
    )
    parser.add_argument(
        '--backends',
        nargs='+',
        choices=(*BACKENDS, *PEERS),
        help='what to time; defaults to everything that is installed for a config, and to what a '
        'file is made for; transformers only when asked for',
    )
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'), help='of the input; defaults to 640 640'
    )
    parser.add_argument('--batch-size', type=int, help='images per run; defaults to 1')
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='size of the image that end to end begins with; defaults to 480 640',
    )
    parser.add_argument(
        '--precision',
        choices=('fp32', 'fp16'),
        help='of a config; defaults to fp16 on a GPU and fp32 on a CPU',
    )
    parser.add_argument(
        '--device', choices=('cpu', 'cuda'), help='defaults to the GPU if there is one'
    )
    parser.add_argument('--threads', type=int, help='of the CPU; defaults to one for each core')
    parser.add_argument('--warmup', type=int, help='runs before; defaults to 50')
    parser.add_argument('--runs', type=int, help='runs that count; defaults to 1000')
    parser.add_argument('--block', type=int, help='runs in a turn; defaults to 10')
    parser.add_argument('--baseline', help='candidate whose ratio is 1; defaults to the first')
    parser.add_argument('--json', metavar='FILE', help='new file for the report')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing report')
    parser.add_argument('--compare', metavar='OLD.json', help='a report to compare with')
    parser.add_argument('--cfg-options', nargs='+', help='changes to the config, as key=value')
    return parser.parse_args(args)


def main(args=None) -> None:
    args = parse_args(args)
    with errors_in_one_line('Stopped; nothing was written.'):
        refuse_missing_files(*args.sources, *filter(None, [args.compare]))
        if args.json:
            refuse_output(args.json, args.overwrite)
        run(args)


def run(args) -> None:
    from deim_mmdet.benchmark.latency_tables import show, show_comparison
    from deim_mmdet.new_output import new_output

    old = read_report(args.compare) if args.compare else None
    if [Path(source).suffix for source in args.sources] == ['.json']:
        report = read_report(args.sources[0])
    else:
        report = run_benchmark(args, old)
        if args.json:
            with new_output(args.json, args.overwrite) as new:
                new.write_text(report.to_json(), encoding='utf-8')
    show(report)
    if old is not None:
        show_comparison(report, old)


def run_benchmark(args, old):
    from deim_mmdet.benchmark import latency
    from deim_mmdet.benchmark.latency_candidates import Request
    from deim_mmdet.benchmark.latency_files import makers_of_files
    from deim_mmdet.machine import Machine, condition, versions, warnings_of

    config, checkpoint, files = sort_sources(args.sources)
    protocol = protocol_of(args)
    machine = Machine.here()
    # refused before minutes of measuring, not behind them
    if old is not None:
        latency.refuse_other_detector(args.sources, args.cfg_options or [], old)
        latency.refuse_other_conditions(machine, protocol, old)
    load = condition().get('load', 0.0)
    request = Request(protocol, args.backends, args.device, args.precision)
    with tempfile.TemporaryDirectory() as scratch:
        makers = {}
        if config:
            from deim_mmdet.benchmark.latency_config import makers_of_config

            changes = args.cfg_options or []
            makers.update(makers_of_config(config, checkpoint, changes, request, Path(scratch)))
        required = set(makers) if args.backends else set()
        of_files = makers_of_files(files, request)
        makers.update(of_files)
        required.update(of_files)
        if not makers:
            raise ValueError(
                f'{", ".join(args.backends)} run none of {", ".join(args.sources)}: a config or '
                'ONNX files are for all of them'
            )
        if args.baseline and args.baseline not in makers:
            raise ValueError(
                f'--baseline must be one of {", ".join(makers)}; got {args.baseline!r}'
            )
        candidates, skipped = make_all(makers, required)
        baseline = args.baseline or candidates[0].name
        before = dict(condition_of(candidates), load=load)
        results = latency.measure(candidates, protocol, baseline)
        after = condition_of(candidates)
    return latency.Report(
        machine=machine,
        protocol=protocol,
        versions=versions(),
        results=results,
        baseline=baseline,
        before=before,
        after=after,
        warnings=warnings_of(before, after, machine.cores),
        skipped=skipped,
        sources=args.sources,
        changes=args.cfg_options or [],
        date=datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M'),
    )


def sort_sources(sources):
    """Config, checkpoint and exported files; None where there is none."""
    from deim_mmdet.deploy.runners import BACKENDS as BY_ENDING

    config = checkpoint = None
    files = []
    for source in map(Path, sources):
        if source.suffix in BY_ENDING:
            files.append(source)
        elif source.suffix == '.py' and config is None:
            config = source
        elif source.suffix in ('.pth', '.pt') and config and checkpoint is None:
            checkpoint = source
        else:
            raise ValueError(
                f'{source}: give one config (.py), its checkpoint (.pth) behind it, and files '
                f'({", ".join(BY_ENDING)}); or a report (.json) alone'
            )
    return config, checkpoint, files


def protocol_of(args):
    from deim_mmdet.benchmark.latency import Protocol
    from deim_mmdet.machine import usable_cores

    values = dict(
        hw=args.size and tuple(args.size),
        batch_size=args.batch_size,
        image_hw=args.image_size and tuple(args.image_size),
        threads=usable_cores() if args.threads is None else args.threads,
        warmup=args.warmup,
        runs=args.runs,
        block=args.block,
    )
    return Protocol(**{name: value for name, value in values.items() if value is not None})


def make_all(makers: dict, required: set) -> tuple:
    """All candidates, after a first run of each; of those that cannot run here the reasons, by
    their names.

    Raises:
        ImportError, ValueError: One that was asked for by name cannot, or none can.
    """
    candidates, skipped = [], {}
    for name, make in makers.items():
        try:
            made = make()
            for timer in made.timers.values():
                timer(1)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            if name in required and isinstance(error, RuntimeError):
                raise ValueError(f'{name} does not run here: {error}') from None
            if name in required:
                raise
            skipped[name] = ' '.join(str(error).split())
            print(f'{name} is skipped: {skipped[name]}', flush=True)
        else:
            candidates.append(made)
    if not candidates:
        raise ValueError(f'nothing can be timed: {skipped}')
    return candidates, skipped


def condition_of(candidates: list) -> dict:
    """Of the machine; a GPU has just worked, since the clock of an idle one falls."""
    from deim_mmdet.machine import condition

    for candidate in candidates:
        if candidate.device != 'cpu':
            candidate.timers['detections'](10)
    return condition()


def read_report(path: str):
    from deim_mmdet.benchmark.latency import Report

    try:
        text = Path(path).read_text(encoding='utf-8')
    except UnicodeDecodeError:
        text = ''
    return Report.from_json(text, path)


if __name__ == '__main__':
    sys.exit(main())
