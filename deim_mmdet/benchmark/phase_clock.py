# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Callable, Dict, List, Union

import torch


@dataclass
class Span:
    """Something that was timed, and what was timed inside it."""

    phase: str
    begin: Union[float, torch.cuda.Event]
    end: Union[float, torch.cuda.Event, None] = None
    inner: List['Span'] = field(default_factory=list)


class PhaseClock:
    """Times parts of something that is done again and again.

    What a part spends inside another one is the other's alone, so phases add up to the whole. On a
    GPU its own clock is read, and nothing waits for it before the outermost part is done.

    Args:
        device (torch.device): Whose time.
        now (Callable): Tells seconds where the device is no GPU. Defaults to
            ``time.perf_counter``; ``time.process_time`` leaves out what other programs take.

    Attributes:
        seconds (dict[str, list[float]]): Of each phase, one entry for each outermost part in which
            it occurs.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self.device = device
        self.now = now
        self.seconds: Dict[str, List[float]] = defaultdict(list)
        self._open: List[Span] = []

    def wrap(self, owner: object, method: str, phase: str) -> None:
        """Replace ``owner.method`` by one that is timed."""
        original = getattr(owner, method)

        @wraps(original)
        def timed(*args, **kwargs):
            with self.measure(phase):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    @contextmanager
    def measure(self, phase: str):
        """Time what is done inside."""
        span = Span(phase, self._mark())
        if self._open:
            self._open[-1].inner.append(span)
        self._open.append(span)
        try:
            yield
        finally:
            self._open.pop()
            span.end = self._mark()
        if not self._open:
            self._note(span)

    def totals(self) -> List[float]:
        """Seconds of each outermost part; all have the same phases."""
        assert len({len(parts) for parts in self.seconds.values()}) <= 1
        return [sum(parts) for parts in zip(*self.seconds.values())]

    def _mark(self) -> Union[float, torch.cuda.Event]:
        if self.device.type != 'cuda':
            return self.now()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _note(self, outermost: Span) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        sums: Dict[str, float] = defaultdict(float)

        def add(span: Span) -> float:
            total = self._seconds_between(span.begin, span.end)
            sums[span.phase] += total - sum(map(add, span.inner))
            return total

        add(outermost)
        for phase, seconds in sums.items():
            self.seconds[phase].append(seconds)

    def _seconds_between(self, begin, end) -> float:
        if self.device.type == 'cuda':
            return begin.elapsed_time(end) / 1000
        return end - begin
