# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How large the values in a graph get, seen on images."""

from typing import Callable, Dict, Iterable, Sequence

import numpy as np
import onnx

from ..runners.onnxruntime_runner import open_session

BINS = 2048
# int8 without -128, so that zero lies in the middle.
LEVELS = 127
PERCENTILE = 99.99


class Magnitudes:
    """Histogram of the absolute values of a tensor, of any number of batches.

    Its range doubles when a value lies beyond it; then two neighbouring bins become one.

    Attributes:
        counts (ndarray): Values in each bin, shape (BINS,). Zeros are not counted: every scale
            holds them exactly.
        top (float): Upper end of the last bin; 0 as long as there are none but zeros.
        largest (float): Largest absolute value.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.top = self.largest = 0.0

    def add(self, values: np.ndarray) -> None:
        values = np.abs(values[values != 0]).astype(np.float32)
        if not values.size:
            return
        largest = float(values.max())
        if not np.isfinite(largest):
            raise ValueError('the graph computes values that are not finite')
        self.largest = max(self.largest, largest)
        self.top = self.top or largest
        while self.top < largest:
            self.top *= 2
            self.counts = np.pad(self.counts.reshape(-1, 2).sum(1), (0, BINS // 2))
        self.counts += np.histogram(values, BINS, (0, self.top))[0]


def by_maximum(seen: Magnitudes) -> float:
    """Nothing is clipped."""
    return seen.largest


def by_percentile(seen: Magnitudes) -> float:
    """The largest values are clipped, one in ten thousand."""
    share = np.cumsum(seen.counts) / max(1, seen.counts.sum())
    last = np.searchsorted(share, PERCENTILE / 100)
    return min(seen.largest, (last + 1) * seen.top / BINS)


def by_entropy(seen: Magnitudes) -> float:
    """The distribution that is left tells most of the one that was (Kullback-Leibler).

    As in "8-bit Inference with TensorRT" (GTC 2017).
    """
    if not seen.top:
        return 0.0
    used = int(np.ceil(seen.largest / (seen.top / BINS)))
    best, least = used, np.inf
    for end in range(LEVELS + 1, used + 1, 8):
        kept = seen.counts[:end].astype(np.float64)
        group = np.minimum(np.arange(end) * (LEVELS + 1) // end, LEVELS)
        filled = kept > 0
        sums = np.bincount(group, kept, LEVELS + 1)
        sizes = np.bincount(group, filled, LEVELS + 1)
        rounded = np.where(filled, (sums / np.maximum(sizes, 1))[group], 0)
        kept[-1] += seen.counts[end:].sum()
        if not rounded.sum():
            continue
        p, q = kept / kept.sum(), rounded / rounded.sum()
        both = (p > 0) & (q > 0)
        lost = p[(p > 0) & (q == 0)].sum()
        divergence = float((p[both] * np.log(p[both] / q[both])).sum()) + (1e3 if lost else 0)
        if divergence < least:
            best, least = end, divergence
    return min(seen.largest, best * seen.top / BINS)


METHODS: Dict[str, Callable[[Magnitudes], float]] = {
    'max': by_maximum,
    'percentile': by_percentile,
    'entropy': by_entropy,
}


def observe(
    model: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Dict[str, np.ndarray]]
) -> Dict[str, Magnitudes]:
    """Run a graph and look at some of its values.

    Args:
        model (ModelProto): The graph.
        names (Sequence[str]): Values to look at.
        feeds (Iterable[dict[str, ndarray]]): Inputs of each run.

    Raises:
        ValueError: ``feeds`` is empty.
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    for name in names:
        opened.graph.output.add(name=name)
    session = open_session(opened.SerializeToString())
    seen = {name: Magnitudes() for name in names}
    runs = 0
    for feed in feeds:
        runs += 1
        for name, values in zip(names, session.run(list(names), feed)):
            seen[name].add(values)
    if not runs:
        raise ValueError('there are no images to calibrate on')
    return seen
