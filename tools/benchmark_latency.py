# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How long a detector takes for an image: PyTorch, ONNX Runtime, OpenVINO, TensorRT.

    python tools/benchmark_latency.py CONFIG [CHECKPOINT]
    python tools/benchmark_latency.py model.onnx model.xml model.engine
    python tools/benchmark_latency.py CONFIG CHECKPOINT --json new.json --compare old.json
    python tools/benchmark_latency.py new.json --compare old.json

The protocol of the papers: one image of 640 x 640, float16 on GPUs, warm-up, 1000 runs. Candidates
take turns, a few runs each, so that whatever else happens on the machine happens to all. Times are
medians and percentiles of milliseconds of three stages:

    network     prepared image to class scores and boxes of all queries: no post-processing
    detections  prepared image to the best boxes, scores and labels
    end to end  image array to boxes in its pixels

On a GPU the first two are times of the GPU alone: inputs lie there, results stay there.

A config is built in its deploy form, and exported for what needs a file; without a checkpoint it
has random weights, which take as long. Of an ONNX file that another program exported, the graph is
timed in ONNX Runtime. Reports are compared only if they are of the same config, kind of machine and
protocol.
"""

import argparse
import datetime
import sys
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deim_mmdet.deploy.latency import (
    STAGES,
    Protocol,
    Report,
    compare,
    measure,
    refuse_other_conditions,
    refuse_other_detector,
)
from deim_mmdet.deploy.latency_candidates import (
    TITLES,
    exported_candidate,
    foreign_candidate,
    is_foreign,
)
from deim_mmdet.deploy.runners import BACKENDS as BACKEND_OF
from deim_mmdet.machine import Machine, condition, usable_cores, versions, warnings_of
from deim_mmdet.new_output import new_output, refuse_to_lose

PYTORCH = dict(pytorch='PyTorch', compile='PyTorch compiled')
ALL_TITLES = dict(**PYTORCH, **TITLES)
READS_ONNX = tuple(TITLES)
ON_GPU_ONLY = 'tensorrt'


def parse_args(args=None):
    default = Protocol()
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
        choices=ALL_TITLES,
        help='what to time; defaults to everything that is installed for a config, and to what a '
        'file is made for',
    )
    parser.add_argument('--size', type=int, nargs=2, default=default.hw, metavar=('H', 'W'))
    parser.add_argument('--batch-size', type=int, default=default.batch_size)
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        default=default.image_hw,
        metavar=('H', 'W'),
        help='size of the image that end to end begins with; 480 640',
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
    parser.add_argument('--warmup', type=int, default=default.warmup, help='runs before')
    parser.add_argument('--runs', type=int, default=default.runs, help='runs that count')
    parser.add_argument('--block', type=int, default=default.block, help='runs in a turn')
    parser.add_argument('--baseline', help='candidate whose ratio is 1; defaults to the first')
    parser.add_argument('--json', metavar='FILE', help='new file for the report')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing report')
    parser.add_argument('--compare', metavar='OLD.json', help='a report to compare with')
    parser.add_argument('--cfg-options', nargs='+', help='changes to the config, as key=value')
    return parser.parse_args(args)


def main(args=None) -> None:
    args = parse_args(args)
    try:
        run(args)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    except KeyboardInterrupt:
        raise SystemExit('interrupted; nothing was written') from None


def run(args) -> None:
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


def run_benchmark(args, old) -> Report:
    config, checkpoint, files = sort_sources(args.sources)
    protocol = Protocol(
        tuple(args.size),
        args.batch_size,
        tuple(args.image_size),
        usable_cores() if args.threads is None else args.threads,
        args.warmup,
        args.runs,
        args.block,
    )
    machine = Machine.here()
    # refused before minutes of measuring, not behind them
    if old is not None:
        refuse_other_detector(args.sources, args.cfg_options or [], old)
        refuse_other_conditions(machine, protocol, old)
    if args.json:
        refuse_to_lose(args.json, args.overwrite)
    load = condition().get('load', 0.0)
    skipped = {}
    with tempfile.TemporaryDirectory() as scratch:
        makers = {}
        if config:
            makers.update(of_config(config, checkpoint, args, protocol, Path(scratch)))
        required = set(makers) if args.backends else set()
        for file, label in zip(files, labels_of(files)):
            found = of_file(file, label, args, protocol)
            makers.update(found)
            required.update(found)
        if not makers:
            raise ValueError(
                f'{", ".join(args.backends)} run none of {", ".join(args.sources)}: a config or '
                'ONNX files are for all of them'
            )
        if args.baseline and args.baseline not in makers:
            raise ValueError(
                f'--baseline must be one of {", ".join(makers)}; got {args.baseline!r}'
            )
        candidates = make_all(makers, required, skipped)
        baseline = args.baseline or candidates[0].name
        before = dict(condition_of(candidates), load=load)
        results = measure(candidates, protocol, baseline)
        after = condition_of(candidates)
    return Report(
        machine,
        protocol,
        versions(),
        results,
        baseline,
        before,
        after,
        warnings_of(before, after, machine.cores),
        skipped,
        args.sources,
        args.cfg_options or [],
        datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M'),
    )


def sort_sources(sources):
    """Config, checkpoint and exported files; None where there is none."""
    config = checkpoint = None
    files = []
    for source in map(Path, sources):
        if not source.is_file():
            raise FileNotFoundError(f'{source}: no such file')
        if source.suffix in BACKEND_OF:
            files.append(source)
        elif source.suffix == '.py' and config is None:
            config = source
        elif source.suffix in ('.pth', '.pt') and config and checkpoint is None:
            checkpoint = source
        else:
            raise ValueError(
                f'{source}: give one config (.py), its checkpoint (.pth) behind it, and files '
                f'({", ".join(BACKEND_OF)}); or a report (.json) alone'
            )
    return config, checkpoint, files


def labels_of(files) -> list:
    """Names of the files; of those that share one, paths."""
    names = [file.name for file in files]
    return [str(file) if names.count(file.name) > 1 else file.name for file in files]


def of_file(file: Path, label: str, args, protocol: Protocol) -> dict:
    """name -> what makes the candidate, for every backend that can run the file."""
    own = BACKEND_OF[file.suffix]
    backends = [own]
    if args.backends:
        able = READS_ONNX if file.suffix == '.onnx' else [own]
        backends = [backend for backend in args.backends if backend in able]
    if args.device == 'cpu' and ON_GPU_ONLY in backends:
        raise ValueError(f'{file}: TensorRT runs on GPUs alone: leave it or --device cpu out')
    if backends == ['onnxruntime'] and file.suffix == '.onnx' and is_foreign(file):
        name = f'{TITLES[backends[0]]}, {label}'
        return {name: partial(foreign_candidate, name, file, protocol)}
    device = args.device or default_device(backends)
    return {
        f'{TITLES[backend]}, {label}': partial(
            exported_candidate, f'{TITLES[backend]}, {label}', file, backend, protocol, device
        )
        for backend in backends
    }


def default_device(backends) -> str:
    """For ONNX Runtime the GPU, where its build has one; the others know by themselves."""
    from deim_mmdet.deploy.latency_candidates import onnxruntime_has_cuda

    try:
        return 'cuda' if 'onnxruntime' in backends and onnxruntime_has_cuda() else 'cpu'
    except ImportError:
        return 'cpu'


def of_config(config: Path, checkpoint, args, protocol: Protocol, scratch: Path) -> dict:
    """name -> what makes the candidate, for every backend."""
    import torch

    from deim_mmdet.deploy.latency_candidates import candidate, onnxruntime_has_cuda
    from deim_mmdet.deploy.runners.torch_runner import TorchRunner

    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if device == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: PyTorch sees no GPU; leave it out for the CPU')
    backends = args.backends or ALL_TITLES
    if args.device == 'cpu':
        if args.backends and ON_GPU_ONLY in args.backends:
            raise ValueError('--device cpu: TensorRT runs on GPUs alone')
        backends = [backend for backend in backends if backend != ON_GPU_ONLY]
    torch.set_num_threads(protocol.threads)
    torch.backends.cudnn.benchmark = True  # the size of the input never changes
    exports = Exports(config, checkpoint, args, protocol, scratch)

    def is_half(on_gpu: bool) -> bool:
        return args.precision == 'fp16' or (args.precision is None and on_gpu)

    def pytorch(name):
        half = is_half(device != 'cpu')
        metadata = exports.metadata(half)
        runners = [
            TorchRunner(
                exports.detector, metadata, device, half, name == PYTORCH['compile'], postprocess
            )
            for postprocess in (True, False)
        ]
        return candidate(name, *runners, protocol)

    def exported(backend):
        on_gpu = backend == 'tensorrt' or (
            backend == 'onnxruntime' and device != 'cpu' and onnxruntime_has_cuda()
        )
        path = exports.graph(is_half(on_gpu))
        return exported_candidate(TITLES[backend], path, backend, protocol, device)

    return {
        ALL_TITLES[backend]: partial(pytorch, PYTORCH[backend])
        if backend in PYTORCH
        else partial(exported, backend)
        for backend in backends
    }


class Exports:
    """A detector and its graphs, made when they are asked for."""

    def __init__(self, config: Path, checkpoint, args, protocol: Protocol, scratch: Path) -> None:
        from mmengine.config import Config, DictAction

        self.config = Config.fromfile(config)
        if args.cfg_options:
            parser = argparse.ArgumentParser()
            parser.add_argument('--changes', nargs='+', action=DictAction)
            changes = parser.parse_args(['--changes', *args.cfg_options]).changes
            self.config.merge_from_dict(changes)
        self.detector = build_detector(self.config, checkpoint)
        self.protocol = protocol
        self.scratch = scratch

    def options(self, half: bool):
        from deim_mmdet.deploy import ExportOptions

        return ExportOptions(self.protocol.hw, batch_size=self.protocol.batch_size, half=half)

    def metadata(self, half: bool):
        from deim_mmdet.deploy import describe

        return describe(self.detector, self.config, self.options(half))

    def graph(self, half: bool) -> Path:
        from deim_mmdet.deploy import export_onnx

        path = self.scratch / f'{"half" if half else "single"}.onnx'
        if not path.is_file():
            export_onnx(self.detector, path, self.options(half), self.metadata(half))
        return path


def build_detector(config, checkpoint):
    """With the weights of the checkpoint, or random ones."""
    import torch
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    MMLogger.get_instance('mmengine', log_level='WARNING')
    if checkpoint:
        from mmdet.apis import init_detector

        return init_detector(config, str(checkpoint), device='cpu')
    from mmdet.registry import MODELS

    init_default_scope(config.get('default_scope', 'mmdet'))
    torch.manual_seed(0)
    config.model.backbone.init_cfg = None
    detector = MODELS.build(config.model)
    detector.init_weights()
    return detector.eval()


def make_all(makers: dict, required: set, skipped: dict) -> list:
    """All candidates, after a first run of each; those that cannot run here are noted.

    Raises:
        ImportError, ValueError: One that was asked for by name cannot, or none can.
    """
    candidates = []
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
    return candidates


def condition_of(candidates: list) -> dict:
    """Of the machine; a GPU has just worked, since the clock of an idle one falls."""
    for candidate in candidates:
        if candidate.device != 'cpu':
            candidate.timers['detections'](10)
    return condition()


def read_report(path: str) -> Report:
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        text = Path(path).read_text(encoding='utf-8')
    except UnicodeDecodeError:
        text = ''
    return Report.from_json(text, path)


def show(report: Report) -> None:
    protocol = report.protocol
    print(f'{report.date} UTC: {report.machine}')
    print(', '.join(f'{name} {version}' for name, version in report.versions.items()))
    print(
        f'{protocol.batch_size} x {protocol.hw[0]} x {protocol.hw[1]}, {protocol.threads} threads, '
        f'{protocol.runs} runs in turns of {protocol.block} after {protocol.warmup} for warm-up'
    )
    print(f'milliseconds; ratios to {report.baseline}')
    print(f'load {report.before.get("load", "?")} before; {clocks(report)}')
    table = Table('stage', 'candidate', 'precision', 'clock')
    for column in ('p5', 'median', 'p90', 'p99', 'ratio'):
        table.add_column(column, justify='right')
    for stage in STAGES:
        results = [result for result in report.results if result.stage == stage]
        for result in results:
            timing = result.timing
            table.add_row(
                stage if result is results[0] else '',
                result.candidate,
                result.precision,
                clock_of(result),
                *(f'{t:.2f}' for t in (timing.p5, timing.p50, timing.p90, timing.p99)),
                '' if result.ratio is None else f'{result.ratio:.3f}',
                end_section=result is results[-1],
            )
    print_table(table)
    for stage in STAGES:
        groups = {}
        for result in report.results:
            if result.stage == stage:
                groups.setdefault(clock_of(result), []).append(result)
        for clock, results in groups.items():
            if len(results) > 1:
                best = min(results, key=lambda result: result.timing.p50)
                print(
                    f'fastest, {stage}, {clock}: {best.candidate} ({best.precision}), '
                    f'{best.timing.p50:.2f} ms'
                )
    for name, reason in report.skipped.items():
        print(f'skipped: {name}: {reason}')
    for warning in report.warnings:
        print(f'warning: {warning}')


def clock_of(result) -> str:
    """What computes, and whose clock if not its own: times of different ones are not of the same.

    'cpu', 'cuda', or 'cuda, wall'.
    """
    by_wall = result.clock == 'host' and result.device != 'cpu'
    return f'{result.device}, wall' if by_wall else result.device


def clocks(report: Report) -> str:
    """Before and after, as 'CPU 2450 -> 2450 MHz, GPU 0 1590 -> 1590 MHz'."""
    pairs = {'CPU': (report.before.get('cpu_mhz'), report.after.get('cpu_mhz'))}
    gpus = zip(report.before.get('gpus', ()), report.after.get('gpus', ()))
    for index, (before, after) in enumerate(gpus):
        pairs[f'GPU {index}'] = before['sm'], after['sm']
    return ', '.join(
        f'{name} {" -> ".join("?" if mhz is None else f"{mhz:g}" for mhz in pair)} MHz'
        for name, pair in pairs.items()
    )


def show_comparison(report: Report, old: Report) -> None:
    table = Table('stage', 'candidate', 'precision')
    for column in (f'median, {old.date}', f'median, {report.date}', 'ratio'):
        table.add_column(column, justify='right')
    for new, before, ratio in compare(report, old):
        medians = (f'{result.timing.p50:.2f}' for result in (before, new))
        table.add_row(new.stage, new.candidate, new.precision, *medians, f'{ratio:.3f}')
    print_table(table)
    for name in sorted({*report.versions, *old.versions}):
        before, now = old.versions.get(name), report.versions.get(name)
        if before != now:
            print(f'{name}: {before or "not installed"}, now {now or "not installed"}')


def print_table(table: Table) -> None:
    Console(width=160 if not sys.stdout.isatty() else None).print(table)


if __name__ == '__main__':
    sys.exit(main())
