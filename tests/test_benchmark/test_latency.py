# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How times are measured and kept; nothing here depends on how fast this machine is."""

import gc
import json
from dataclasses import replace

import pytest

from deim_mmdet.benchmark.latency import (
    Candidate,
    Protocol,
    Report,
    Result,
    Timing,
    compare,
    host_timer,
    measure,
    ratio_in_turn,
    refuse_other_conditions,
    time_in_turn,
)
from deim_mmdet.machine import Machine

HERE = Machine('AMD EPYC (cpu family 25)', 2, ('Tesla T4',), 'Linux x86_64')
PROTOCOL = Protocol(warmup=2, runs=4, block=2)


def report(**changes) -> Report:
    results = [
        Result('ONNX Runtime', 'float32', 'cpu', 'network', 'host', Timing.of([2.0, 2.0]), 1.0),
        Result('TensorRT', 'float16', 'cuda', 'network', 'device', Timing.of([1.0, 3.0]), None),
    ]
    values = dict(versions=dict(python='3.11'), results=results, date='2026-01-31 12:00')
    return replace(Report(HERE, PROTOCOL, **values), **changes)


class Recorder:
    """A timer whose runs take what it is told."""

    def __init__(self, name, log, times):
        self.name, self.log, self.times = name, log, iter(times)

    def __call__(self, count):
        self.log.append(f'{self.name}{count}')
        return [next(self.times) for _ in range(count)]


# ---- times ----


def test_percentiles():
    # of 0, 1, ..., 100 the p-th percentile is p; the mean is 50
    assert Timing.of(range(101)) == Timing(101, 5.0, 50.0, 90.0, 99.0, 50.0)
    # of 10 and 20: p5 lies 5 % of the way from one to the other
    timing = Timing.of([20.0, 10.0])
    assert (timing.p5, timing.p50, timing.p90, timing.p99) == pytest.approx((10.5, 15, 19, 19.9))
    assert Timing.of([7.0]) == Timing(1, 7.0, 7.0, 7.0, 7.0, 7.0)


def test_candidates_take_turns():
    log = []
    # 2 to warm up; then in each turn one that does not count and two, or the one that is left
    a = Recorder('a', log, [-1, -1, -1, 1, 2, -1, 3])
    b = Recorder('b', log, [-1, -1, -1, 4, 5, -1, 6])
    assert time_in_turn(dict(a=a, b=b), runs=3, warmup=2, block=2) == dict(a=[1, 2, 3], b=[4, 5, 6])
    assert log == ['a2', 'b2', 'a1', 'a2', 'b1', 'b2', 'a1', 'a1', 'b1', 'b1']


def test_one_alone_has_no_turns_to_settle():
    log = []
    assert time_in_turn(dict(a=Recorder('a', log, [1, 2, 3])), 3, 0, 2) == dict(a=[1, 2, 3])
    assert log == ['a0', 'a2', 'a1']


def test_garbage_is_not_collected_meanwhile():
    def run():
        assert not gc.isenabled()
        raise KeyError

    with pytest.raises(KeyError):
        time_in_turn(dict(a=host_timer(run)), runs=1)
    assert gc.isenabled()


def test_ratio_is_of_neighbours():
    # the machine is twice as slow in the second turn, and three times in the last: the ratio is 2
    times, baseline = [2, 2, 4, 4, 6], [1, 1, 2, 2, 3]
    assert ratio_in_turn(times, baseline, block=2) == 2
    # a turn that something disturbed is outvoted
    assert ratio_in_turn([2, 2, 90, 90, 6], baseline, block=2) == 2


def test_host_timer():
    seen = []
    times = host_timer(lambda: seen.append(1))(3)
    assert len(times) == len(seen) == 3 and min(times) >= 0


def test_measure():
    def timers(time, *stages):
        return {stage: lambda count: [time] * count for stage in stages}

    candidates = [
        Candidate('A', 'float32', 'cpu', timers(2.0, 'network', 'detections', 'end to end')),
        Candidate('B', 'float16', 'cuda', timers(1.0, 'detections', 'end to end'), {'detections'}),
    ]
    found = measure(candidates, PROTOCOL, baseline='A')
    assert [(r.candidate, r.stage, r.clock, r.timing.p50, r.ratio) for r in found] == [
        ('A', 'network', 'host', 2, 1),
        ('A', 'detections', 'host', 2, 1),
        ('B', 'detections', 'device', 1, 0.5),
        ('A', 'end to end', 'host', 2, 1),
        ('B', 'end to end', 'host', 1, 0.5),
    ]
    # a stage that the baseline does not have has no ratio
    assert [r.ratio for r in measure(candidates, PROTOCOL, baseline='B')] == [None, 2, 1, 2, 1]
    with pytest.raises(ValueError, match="baseline must be one of A, B; got 'C'"):
        measure(candidates, PROTOCOL, baseline='C')


# fmt: off
BAD_PROTOCOLS = [
    (dict(runs=0),            'runs must be at least 1, got 0'),
    (dict(block=0),           'block must be at least 1, got 0'),
    (dict(batch_size=0),      'batch_size must be at least 1, got 0'),
    (dict(threads=0),         'threads must be at least 1, got 0'),
    (dict(warmup=-1),         'warmup must be at least 0, got -1'),
    (dict(image_hw=(0, 640)), 'image_hw must be positive, got .0, 640.'),
]
# fmt: on


@pytest.mark.parametrize(('values', 'message'), BAD_PROTOCOLS)
def test_bad_protocols(values, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**values)


# ---- reports ----


def test_a_report_survives_json():
    written = report(before=dict(load=0.1), skipped=dict(OpenVINO='missing'), warnings=['hot'])
    assert Report.from_json(written.to_json(), 'a.json') == written


# fmt: off
BAD_REPORTS = [
    ('',                                 'a.json is no report of tools/benchmark_latency.py'),
    ('[1]',                              'is no report'),
    ('{"a": 1}',                         'is no report'),
    ('{"format": 2}',                    'a.json is of format 2, this .* reads format 1: measure'),
    ('{"format": 1}',                    "a.json is a damaged report: KeyError.'results'"),
    ('{"format": 1, "results": [{}]}',   'damaged'),
    ('{"format": 1, "results": null}',   'damaged'),
]
# fmt: on


@pytest.mark.parametrize(('text', 'message'), BAD_REPORTS)
def test_bad_reports(text, message):
    with pytest.raises(ValueError, match=message):
        Report.from_json(text, 'a.json')


def test_unknown_entries_are_refused():
    values = json.loads(report().to_json())
    with pytest.raises(ValueError, match='damaged'):
        Report.from_json(json.dumps(dict(values, weather='fine')), 'a.json')


def test_comparison():
    old = report()
    faster = replace(old.results[0], timing=Timing.of([1.0, 1.0]))
    # the second is of another precision: that is another thing
    other = replace(old.results[1], precision='int8')
    pairs = compare(replace(old, results=[faster, other]), old)
    assert pairs == [(faster, old.results[0], 0.5)]
    with pytest.raises(
        ValueError,
        match=r'no candidate in common: TensorRT \(int8, cuda\) here, ONNX Runtime \(float32, cpu',
    ):
        compare(replace(old, results=[other]), old)


# what differs, and what the refusal names
# fmt: off
CONDITIONS = [
    (dict(machine=replace(HERE, cores=4)),            'here AMD.*, 2 cores.*there .*, 4 cores'),
    (dict(machine=replace(HERE, gpus=())),            'here .*Tesla T4.*there .*no GPU'),
    (dict(machine=replace(HERE, cpu='Xeon')),         'different machines.*there Xeon'),
    (dict(protocol=replace(PROTOCOL, runs=5)),        'here runs 4; there runs 5'),
    (dict(protocol=replace(PROTOCOL, hw=(320, 640))), r'here hw \(640, 640\); there hw \(320, 640'),
]
# fmt: on


@pytest.mark.parametrize(('changes', 'message'), CONDITIONS)
def test_other_conditions_are_refused(changes, message):
    other = report(**changes)
    with pytest.raises(ValueError, match=message):
        refuse_other_conditions(HERE, PROTOCOL, other)
    with pytest.raises(ValueError, match=message):
        compare(report(), other)


# sources and changes of both reports; None: they are compared
# fmt: off
DETECTORS = [
    ([],                    [],         [],                  [],         None),
    (['a/s.py', 'new.pth'], [],         ['b/s.py'],          [],         None),
    (['s.py'],              ['a=1'],    ['s.py'],            ['a=1'],    None),
    (['new/m.onnx'],        [],         ['old/m.onnx'],      [],         None),
    (['s.py', 'm.onnx'],    [],         ['m.onnx'],          [],         None),
    (['s.py'],              [],         ['n.py'],            [],         'here s.py; there n.py'),
    (['s.py'],              ['a=1'],    ['s.py'],            [],         'here s.py a=1; there'),
]
# fmt: on


@pytest.mark.parametrize(('here', 'changes', 'there', 'old_changes', 'message'), DETECTORS)
def test_other_detectors_are_refused(here, changes, there, old_changes, message):
    new = report(sources=here, changes=changes)
    old = report(sources=there, changes=old_changes)
    if message is None:
        assert compare(new, old)
    else:
        with pytest.raises(ValueError, match=f'different detectors .*: {message}'):
            compare(new, old)


def test_other_versions_are_compared():
    """That is what reports are for."""
    assert compare(report(versions=dict(python='3.14')), report())
