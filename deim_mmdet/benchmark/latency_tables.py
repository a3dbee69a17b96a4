# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Reports of :mod:`.latency` on the screen."""

import sys
from typing import Sequence

from rich.console import Console
from rich.table import Table

from .latency import STAGES, Report, Result, compare


def show(report: Report) -> None:
    """What was measured where, the fastest, and what speaks against it."""
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
                print(f'fastest, {stage}, {clock}: {fastest(results, is_busy(report))}')
    for name, reason in report.skipped.items():
        print(f'skipped: {name}: {reason}')
    for warning in report.warnings:
        print(f'warning: {warning}')


def fastest(results: Sequence[Result], busy: bool) -> str:
    """Who it is, or why nobody can be called so.

    Args:
        results (Sequence[Result]): At least two, of one stage and clock.
        busy (bool): Whether other programs took the machine's cores meanwhile.
    """
    best, next_one = sorted(results, key=lambda result: result.timing.p50)[:2]
    first, second = (f'{r.candidate} ({r.precision})' for r in (best, next_one))
    if busy:
        return 'not known, since other programs had the cores: measure on an idle machine'
    if best.timing.p90 >= next_one.timing.p50:
        return (
            f'{first} or {second}, since their times overlap (p90 {best.timing.p90:.2f} and median '
            f'{next_one.timing.p50:.2f} ms)'
        )
    return f'{first}, {best.timing.p50:.2f} ms'


def is_busy(report: Report) -> bool:
    """Whether more programs wanted to run before than the machine has cores."""
    return report.before.get('load', 0) > report.machine.cores


def clock_of(result: Result) -> str:
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
    """Medians of what both have, and versions that differ."""
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
