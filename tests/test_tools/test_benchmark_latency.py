# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The command line of tools/benchmark_latency.py; how it measures is tested in test_deploy."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.benchmark.latency import Candidate, Protocol, Report, Result, Timing
from deim_mmdet.benchmark.latency_candidates import Request
from deim_mmdet.benchmark.latency_config import CANDIDATES, PEERS, makers_of_config
from deim_mmdet.benchmark.latency_tables import show
from deim_mmdet.deploy import ExportOptions
from deim_mmdet.machine import Machine
from tests.test_deploy.fake_tensorrt import install
from tests.test_deploy.models import ATTO, config_of, detector_of, export

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / f'configs/{ATTO}.py')
SMALL = ['--size', '192', '192', '--threads', '1', '--runs', '4', '--block', '2', '--warmup', '1']


@pytest.fixture
def main(tool):
    return tool('benchmark_latency').main


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp('exported') / 'atto.onnx'
    export(detector_of(ATTO), config_of(ATTO), path, ExportOptions(hw=(192, 192)))
    return path


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    """As if ONNX Runtime had been measured here before."""
    results = [
        Result('ONNX Runtime, atto.onnx', 'float32', 'cpu', stage, 'host', Timing.of([1e3]), 1.0)
        for stage in ('network', 'detections', 'end to end')
    ]
    protocol = Protocol(hw=(192, 192), runs=4, block=2, warmup=1)
    path = tmp_path_factory.mktemp('reports') / 'old.json'
    found = Report(Machine.here(), protocol, dict(python='2.7'), results, date='2026-01-31 12:00')
    path.write_text(found.to_json())
    return path


def changed(report: Path, path: Path, **values) -> str:
    """A report with other values, by 'section.key'."""
    content = json.loads(report.read_text())
    for name, value in values.items():
        *section, key = name.split('__')
        (content[section[0]] if section else content)[key] = value
    path.write_text(json.dumps(content))
    return str(path)


def test_config(main, tmp_path, capsys):
    out = tmp_path / 'new.json'
    main([CONFIG, *SMALL, '--backends', 'pytorch', 'onnxruntime', '--json', str(out)])
    report = Report.from_json(out.read_text(), 'new.json')
    assert [(r.candidate, r.stage, r.timing.runs) for r in report.results] == [
        (candidate, stage, 4)
        for stage in ('network', 'detections', 'end to end')
        for candidate in ('PyTorch', 'ONNX Runtime')
    ]
    assert report.machine == Machine.here() and report.protocol.threads == 1
    assert {'torch', 'onnxruntime', 'deim_mmdet'} <= set(report.versions)
    assert [r.ratio for r in report.results[::2]] == [1, 1, 1]
    assert {(r.precision, r.clock) for r in report.results if r.device == 'cpu'} <= {
        ('float32', 'host')
    }
    text = capsys.readouterr().out
    assert '1 x 192 x 192, 1 threads, 4 runs in turns of 2 after 1 for warm-up' in text
    assert 'fastest, end to end, ' in text and 'ratios to PyTorch' in text


def test_files_and_comparison(main, graph, report, capsys):
    pytest.importorskip('openvino')
    main([str(graph), *SMALL, '--backends', 'onnxruntime', 'openvino', '--compare', str(report)])
    text = capsys.readouterr().out
    assert 'ONNX Runtime, atto.onnx' in text and 'OpenVINO, atto.onnx' in text
    comparison = text[text.index('median, 2026-01-31 12:00') :]
    assert comparison.count('1000.00') == 3 and 'OpenVINO' not in comparison.split('python:')[0]
    assert 'python: 2.7, now 3.' in text


def test_tensorrt(main, graph, tmp_path, monkeypatch):
    """On a GPU of paper: engines of the whole graph and of the cut one, by the GPU's clock."""
    _, modules = install(monkeypatch, tensorrt='10.16.1')
    monkeypatch.setenv('HOME', str(tmp_path))
    out = tmp_path / 'new.json'
    main([str(graph), *SMALL, '--backends', 'onnxruntime', 'tensorrt', '--json', str(out)])
    results = Report.from_json(out.read_text(), 'new.json').results
    assert [(r.stage, r.device, r.clock) for r in results if r.candidate.startswith('Tensor')] == [
        ('network', 'cuda', 'device'),
        ('detections', 'cuda', 'device'),
        ('end to end', 'cuda', 'host'),
    ]
    assert modules['tensorrt'].builds == 2


def test_files_of_the_same_name(main, graph, tmp_path):
    """Each is timed."""
    paths = [tmp_path / folder / 'model.onnx' for folder in 'ab']
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(graph.read_bytes())
    out = tmp_path / 'new.json'
    main([str(graph), *map(str, paths), *SMALL, '--json', str(out)])
    results = Report.from_json(out.read_text(), 'new.json').results
    names = [r.candidate for r in results if r.stage == 'network']
    assert names == [f'ONNX Runtime, {name}' for name in ('atto.onnx', *paths)]


def test_fastest_of_what_can_be_compared(tool, report, capsys):
    """A clock of the GPU and one on the wall measure different things."""
    report = tool('benchmark_latency').read_report(str(report))
    # candidate, precision, device, clock, ms
    rows = [
        ('PyTorch', 'float32', 'cpu', 'host', 9.0),
        ('OpenVINO', 'float32', 'cpu', 'host', 7.0),
        ('PyTorch', 'float16', 'cuda', 'host', 3.0),
        ('ONNX Runtime', 'float16', 'cuda', 'host', 2.0),
        ('TensorRT', 'float16', 'cuda', 'device', 1.0),
    ]
    results = [Result(*row[:3], 'network', row[3], Timing.of(row[4:])) for row in rows]
    show(replace(report, results=results))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('fastest')]
    assert lines == [
        'fastest, network, cpu: OpenVINO (float32), 7.00 ms',
        'fastest, network, cuda, wall: ONNX Runtime (float16), 2.00 ms',
    ]


# fmt: off
FASTEST = [
    # ms of two candidates, load on two cores, what is said
    ([7, 7, 7],  [9, 9, 9],  2.0, 'A (float32), 7.00 ms'),
    ([7, 7, 12], [9, 9, 9],  0.5, 'A (float32) or B (float32), since their times overlap (p90 11.0'
                                  '0 and median 9.00 ms)'),
    ([7, 7, 7],  [9, 9, 9],  2.1, 'not known, since other programs had the cores: measure on an '
                                  'idle machine'),
]
# fmt: on


@pytest.mark.parametrize(('one', 'other', 'load', 'said'), FASTEST)
def test_fastest_only_beyond_noise(tool, report, capsys, one, other, load, said):
    report = tool('benchmark_latency').read_report(str(report))
    results = [
        Result(name, 'float32', 'cpu', 'network', 'host', Timing.of(times))
        for name, times in (('B', other), ('A', one))
    ]
    machine = replace(report.machine, cores=2)
    show(replace(report, results=results, machine=machine, before=dict(load=load)))
    assert f'fastest, network, cpu: {said}\n' in capsys.readouterr().out


def test_a_cpu_has_no_tensorrt(tool, monkeypatch, tmp_path):
    """Though there be a GPU beside it."""
    install(monkeypatch, tensorrt='10.16.1')
    request = Request(Protocol(hw=(192, 192)), device='cpu')
    makers = makers_of_config(CONFIG, None, [], request, tmp_path)
    assert list(makers) == ['PyTorch', 'PyTorch compiled', 'ONNX Runtime', 'OpenVINO']
    tool = tool('benchmark_latency')
    assert tool.BACKENDS == tuple(CANDIDATES)
    assert tool.PEERS == tuple(PEERS)


def test_an_interrupt_ends_it_in_one_line(tool, monkeypatch, graph, capsys):
    tool = tool('benchmark_latency')

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('deim_mmdet.benchmark.latency.measure', interrupt)
    with pytest.raises(SystemExit, match='130'):
        tool.main([str(graph), *SMALL])
    assert capsys.readouterr().err.endswith('Stopped; nothing was written.\n')


def test_a_report_is_shown(main, report, tmp_path, capsys):
    conditions = dict(
        date='2026-02-01 12:00',
        before=dict(cpu_mhz=2450, gpus=[dict(sm=300.0)]),
        after=dict(gpus=[dict(sm=1590.0)]),
    )
    new = changed(report, tmp_path / 'new.json', **conditions)
    main([new, '--compare', str(report)])
    text = capsys.readouterr().out
    assert 'median, 2026-01-31' in text and '1.000' in text
    assert 'CPU 2450 -> ? MHz, GPU 0 300 -> 1590 MHz' in text


def test_other_machines_and_protocols(main, graph, report, tmp_path):
    """Refused before anything is measured, and when two reports are shown."""
    other = changed(report, tmp_path / 'other.json', machine__cpu='Xeon')
    for source in (str(graph), str(report)):
        with pytest.raises(SystemExit, match='error: times of different machines .*there Xeon'):
            main([source, *SMALL, '--compare', other])
    with pytest.raises(SystemExit, match='error: .*here runs 5; there runs 4'):
        main([str(graph), *SMALL, '--runs', '5', '--compare', str(report)])


# fmt: off
BAD = [
    (['GRAPH', '--runs', '0'],                  'runs must be at least 1, got 0'),
    (['GRAPH', '--threads', '0'],               'threads must be at least 1, got 0'),
    (['missing.onnx'],                          'missing.onnx: no such file'),
    (['GRAPH', '--compare', 'missing.json'],    'missing.json: no such file'),
    (['GRAPH', '--compare', 'GRAPH'],           'atto.onnx is no report of tools/'),
    (['GRAPH', '--compare', 'NEWER'],           'newer.json is of format 9, this version .* reads'),
    (['REPORT', 'GRAPH'],                       'old.json: give .* or a report .* alone'),
    (['GRAPH', '--json', 'REPORT'],             'old.json exists'),
    (['GRAPH', '--baseline', 'Caffe'],          "one of ONNX Runtime, atto.onnx; got 'Caffe'"),
    (['GRAPH', '--backends', 'pytorch'],        'pytorch run none of .*atto.onnx'),
    (['GRAPH', '--batch-size', '2'],            'takes 1 images, the protocol has 2'),
    (['GRAPH', '--size', '64', '64'],           r'takes images of \(192, 192\), .* has \(64, 64\)'),
    (['GRAPH', '--backends', 'tensorrt', '--device', 'cpu'],  'TensorRT runs on GPUs alone'),
    ([CONFIG, '--backends', 'tensorrt', '--device', 'cpu'],   'TensorRT runs on GPUs alone'),
    ([CONFIG, '--size', '100', '100'],          'multiples of 32, got 100 x 100: take 128 x 128'),
]
# fmt: on


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu(main):
    with pytest.raises(SystemExit, match='error: --device cuda: PyTorch sees no GPU'):
        main([CONFIG, *SMALL, '--device', 'cuda'])


@pytest.mark.parametrize(('arguments', 'message'), BAD)
def test_bad_arguments(main, graph, report, tmp_path, arguments, message):
    names = dict(GRAPH=graph, REPORT=report)
    names['NEWER'] = changed(report, tmp_path / 'newer.json', format=9)
    before = report.read_text()
    arguments = [str(names.get(argument, argument)) for argument in arguments]
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        main([*SMALL, *arguments])
    assert report.read_text() == before


def test_what_is_missing_is_skipped_unless_it_was_asked_for(tool, capsys):
    make_all = tool('benchmark_latency').make_all

    def missing():
        raise ImportError("openvino is missing: pip install '.[deploy]'")

    def broken():
        def timer(count):
            raise RuntimeError('no\ncompiler')

        return Candidate('compiled', 'float32', 'cpu', dict(network=timer))

    fine = Candidate('fine', 'float32', 'cpu', dict(network=lambda count: [1.0] * count))
    makers = dict(OpenVINO=missing, compiled=broken, fine=lambda: fine)
    candidates, skipped = make_all(makers, {'fine'})
    assert candidates == [fine]
    assert skipped == {
        'OpenVINO': "openvino is missing: pip install '.[deploy]'",
        'compiled': 'no compiler',
    }
    assert 'OpenVINO is skipped: openvino is missing' in capsys.readouterr().out
    with pytest.raises(ImportError, match=r"pip install '\.\[deploy\]'"):
        make_all(makers, {'OpenVINO'})
    with pytest.raises(ValueError, match='compiled does not run here: no'):
        make_all(dict(compiled=broken), {'compiled'})
    with pytest.raises(ValueError, match='nothing can be timed: .*openvino is missing'):
        make_all(dict(OpenVINO=missing), set())
