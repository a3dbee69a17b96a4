# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Times of things that do the same, measured in turn. Needs NumPy alone.

Papers on real-time detectors state the latency of one image of 640 x 640 on a T4 GPU in float16;
:class:`Protocol` says what was measured, :class:`Report` keeps it with the machine it is true for.
"""

import gc
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Callable, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np

from deim_mmdet.machine import Machine

Key = TypeVar('Key', bound=Hashable)
# Does something some times; returns the milliseconds that each took.
Timer = Callable[[int], List[float]]

# Rises when a reader of older reports would misunderstand newer ones, or the other way round.
FORMAT = 1
# stage -> from where to where
STAGES = {
    'network': 'prepared image to class scores and boxes of all queries',
    'detections': 'prepared image to the best boxes, scores and labels',
    'end to end': 'image array to boxes in its pixels',
}
# Runs after a change of candidate that do not count: caches and threads are the other's.
SETTLE = 1


@dataclass(frozen=True)
class Protocol:
    """What is measured, and how.

    Attributes:
        hw (tuple[int, int]): Height and width of the network's input.
        batch_size (int): Images per run.
        image_hw (tuple[int, int]): Height and width of the image that 'end to end' begins with.
        threads (int): Threads of the CPU.
        warmup (int): Runs of each candidate before anything counts.
        runs (int): Runs of each candidate that count.
        block (int): Runs of a candidate before it is another's turn.
    """

    hw: Tuple[int, int] = (640, 640)
    batch_size: int = 1
    image_hw: Tuple[int, int] = (480, 640)
    threads: int = 1
    warmup: int = 50
    runs: int = 1000
    block: int = 10

    def __post_init__(self):
        least = dict(batch_size=1, threads=1, warmup=0, runs=1, block=1)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f'{name} must be at least {value}, got {getattr(self, name)}')
        for name in ('hw', 'image_hw'):
            if min(getattr(self, name)) < 1:
                raise ValueError(f'{name} must be positive, got {getattr(self, name)}')

    @classmethod
    def from_dict(cls, values: dict) -> 'Protocol':
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True)
class Timing:
    """Milliseconds per run: their percentiles and mean."""

    runs: int
    p5: float
    p50: float
    p90: float
    p99: float
    mean: float

    @classmethod
    def of(cls, times: Sequence[float]) -> 'Timing':
        percentiles = np.percentile(times, (5, 50, 90, 99)).tolist()
        return cls(len(times), *percentiles, float(np.mean(times)))


@dataclass(frozen=True)
class Candidate:
    """Something whose stages are timed.

    Attributes:
        name (str): As 'ONNX Runtime'; without a version, so that reports can be compared.
        precision (str): 'float32', 'float16', ...
        device (str): 'cpu' or 'cuda'.
        timers (dict[str, Timer]): Of its stages.
        device_stages (frozenset[str]): Those whose timer reads the clock of the device: the inputs
            lie there already, the results stay there.
    """

    name: str
    precision: str
    device: str
    timers: Dict[str, Timer]
    device_stages: frozenset = frozenset()


@dataclass(frozen=True)
class Result:
    """What was measured of a stage of a candidate.

    Attributes:
        candidate, precision, device (str): See :class:`Candidate`.
        stage (str): One of :data:`STAGES`.
        clock (str): 'device' or 'host'.
        timing (Timing): What it took.
        ratio (float, optional): How many times as long as the baseline's, see
            :func:`ratio_in_turn`.
    """

    candidate: str
    precision: str
    device: str
    stage: str
    clock: str
    timing: Timing
    ratio: Optional[float] = None

    @property
    def key(self) -> tuple:
        return self.candidate, self.precision, self.device, self.stage, self.clock


@dataclass(frozen=True)
class Report:
    """A measurement and what it is true for.

    Attributes:
        machine (Machine): Where.
        protocol (Protocol): What.
        versions (dict[str, str]): Of the software.
        results (list[Result]): How long it took.
        baseline (str, optional): Candidate whose ratio is 1.
        before, after (dict): Load, clocks and the like, see :func:`deim_mmdet.machine.condition`.
        warnings (list[str]): What speaks against the measurement.
        skipped (dict[str, str]): Candidates that could not be measured, and why.
        sources (list[str]): Config, checkpoint and files.
        changes (list[str]): To the config, as 'key=value'.
        date (str): UTC, as '2026-01-31 12:00'.
    """

    machine: Machine
    protocol: Protocol
    versions: Dict[str, str]
    results: List[Result]
    baseline: Optional[str] = None
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    warnings: List[str] = field(default_factory=list)
    skipped: Dict[str, str] = field(default_factory=dict)
    sources: List[str] = field(default_factory=list)
    changes: List[str] = field(default_factory=list)
    date: str = ''

    def to_json(self) -> str:
        return json.dumps(dict(format=FORMAT, **asdict(self)), indent=2) + '\n'

    @classmethod
    def from_json(cls, text: str, path: str) -> 'Report':
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: Something else, or of another format; the message names both.
        """
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict) or 'format' not in values:
            raise ValueError(f'{path} is no report of tools/benchmark_latency.py')
        found = values.pop('format')
        if found != FORMAT:
            raise ValueError(
                f'{path} is of format {found}, this version of deim_mmdet reads format {FORMAT}: '
                'measure again, or use the version that wrote it'
            )
        try:
            results = [
                Result(**dict(result, timing=Timing(**result['timing'])))
                for result in values.pop('results')
            ]
            machine = Machine.from_dict(values.pop('machine'))
            protocol = Protocol.from_dict(values.pop('protocol'))
            return cls(machine, protocol, results=results, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{path} is a damaged report: {error!r}') from None


def measure(
    candidates: Sequence[Candidate], protocol: Protocol, baseline: Optional[str] = None
) -> List[Result]:
    """Time every stage that candidates have; within a stage they take turns.

    Args:
        candidates (Sequence[Candidate]): What to time, with names that differ.
        protocol (Protocol): How.
        baseline (str, optional): Name of the candidate whose ratio is 1.

    Raises:
        ValueError: There is no such baseline.
    """
    names = [candidate.name for candidate in candidates]
    assert len(set(names)) == len(names), names
    if baseline is not None and baseline not in names:
        raise ValueError(f'baseline must be one of {", ".join(names)}; got {baseline!r}')
    results = []
    for stage in STAGES:
        entrants = {c.name: c for c in candidates if stage in c.timers}
        timers = {name: c.timers[stage] for name, c in entrants.items()}
        times = time_in_turn(timers, protocol.runs, protocol.warmup, protocol.block)
        for name, candidate in entrants.items():
            ratio = None
            if baseline in times:
                ratio = ratio_in_turn(times[name], times[baseline], protocol.block)
            clock = 'device' if stage in candidate.device_stages else 'host'
            timing = Timing.of(times[name])
            results.append(
                Result(name, candidate.precision, candidate.device, stage, clock, timing, ratio)
            )
    return results


def time_in_turn(
    timers: Mapping[Key, Timer], runs: int, warmup: int = 0, block: int = 10
) -> Dict[Key, List[float]]:
    """Times of all, a block of one after a block of the other: A B C A B C ... What else happens on
    the machine meanwhile happens to all of them alike.

    Args:
        timers (Mapping[Key, Timer]): What to run.
        runs (int): Runs of each that count.
        warmup (int): Runs of each before.
        block (int): Runs before it is another's turn.

    Returns:
        dict[Key, list[float]]: Milliseconds of each run, in order.
    """
    times: Dict[Key, List[float]] = {key: [] for key in timers}
    for timer in timers.values():
        timer(warmup)
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        for begin in range(0, runs, block):
            for key, timer in timers.items():
                if len(timers) > 1:
                    timer(SETTLE)
                times[key] += timer(min(block, runs - begin))
    finally:
        if collects:
            gc.enable()
    return times


def ratio_in_turn(times: Sequence[float], baseline: Sequence[float], block: int) -> float:
    """How many times as long as the baseline: median, over the turns, of the ratio of the medians
    of two blocks that were measured next to each other."""
    ratios = [
        np.median(times[i : i + block]) / np.median(baseline[i : i + block])
        for i in range(0, min(len(times), len(baseline)), block)
    ]
    return float(np.median(ratios))


def host_timer(function: Callable[[], object]) -> Timer:
    """By the clock on the wall; ``function`` returns when it is done."""

    def run(count: int) -> List[float]:
        times = [time.perf_counter()]
        for _ in range(count):
            function()
            times.append(time.perf_counter())
        return [1e3 * (end - start) for start, end in zip(times, times[1:])]

    return run


def compare(new: Report, old: Report) -> List[Tuple[Result, Result, float]]:
    """Results that both reports have.

    Returns:
        list[tuple[Result, Result, float]]: New, old, and how many times as long the new median is.

    Raises:
        ValueError: They are not of the same detector, machine and protocol, or have nothing in
            common.
    """
    refuse_other_detector(new.sources, new.changes, old)
    refuse_other_conditions(new.machine, new.protocol, old)
    before = {result.key: result for result in old.results}
    pairs = [(result, before[result.key]) for result in new.results if result.key in before]
    if not pairs:
        raise ValueError(
            'the reports have no candidate in common: '
            f'{_candidates(new)} here, {_candidates(old)} there'
        )
    return [(a, b, a.timing.p50 / b.timing.p50 if b.timing.p50 else math.inf) for a, b in pairs]


def refuse_other_conditions(machine: Machine, protocol: Protocol, old: Report) -> None:
    """Times are compared only where nothing but the software differs.

    Raises:
        ValueError: The old report is of another machine or protocol; the message names both.
    """
    if machine != old.machine:
        raise ValueError(
            f'times of different machines say nothing about the software: here {machine}; there '
            f'{old.machine}. Measure both on one machine'
        )
    here, there = asdict(protocol), asdict(old.protocol)
    other = [key for key in here if here[key] != there[key]]
    if other:
        raise ValueError(
            'times of different protocols are not compared: here '
            f'{", ".join(f"{key} {here[key]}" for key in other)}; there '
            f'{", ".join(f"{key} {there[key]}" for key in other)}'
        )


def refuse_other_detector(sources: Sequence[str], changes: Sequence[str], old: Report) -> None:
    """Candidates of a config do not say which; those of files have the file's name.

    Raises:
        ValueError: The old report is of another config; the message names both.
    """
    here, there = _config(sources, changes), _config(old.sources, old.changes)
    if here and there and here != there:
        raise ValueError(
            f'times of different detectors are not compared: here {here}; there {there}'
        )


def _config(sources: Sequence[str], changes: Sequence[str]) -> str:
    """Name of the config, and what was changed; '' if there is none. Weights change no time."""
    configs = [PurePath(source).name for source in sources if source.endswith('.py')]
    return ' '.join([*configs, *sorted(changes)]) if configs else ''


def _candidates(report: Report) -> str:
    return ', '.join(sorted({f'{r.candidate} ({r.precision}, {r.device})' for r in report.results}))
