# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What eight-bit integers cost, in words."""

from pathlib import Path
from typing import List, Optional

from mmengine.config import Config

from . import evaluation
from .agreement import compare_files
from .detector import Detector
from .export.quantize import sensitivity

# Worst layers that are listed.
ROWS = 10


def ap_report(before: Detector, after: Detector, config: Config, max_drop: Optional[float]) -> str:
    """AP on the test set of a config.

    Args:
        before, after (Detector): The float file and the integer one.
        config (Config): With the test set.
        max_drop (float, optional): Points of AP that it may fall by; None: any.

    Raises:
        ValueError: It falls by more.
    """
    old, new = (evaluation.evaluate(config, evaluation.predictor(d)) for d in (before, after))
    lines = [
        f'{name} on the test set: {100 * old[name]:.1f} before, {100 * new[name]:.1f} in int8 '
        f'({100 * (new[name] - old[name]):+.1f})'
        for name in list(old)[:2]
    ]
    name = next(iter(old))
    drop = 100 * (old[name] - new[name])
    if max_drop is not None and drop > max_drop:
        lines.append(
            f'{name} falls by {drop:.1f} points, more than --max-ap-drop {max_drop:g}: nothing was '
            'written. --sensitivity names the layers that cost most, --float-layers leaves them.'
        )
        raise ValueError('\n'.join(lines))
    return '\n'.join(lines)


def agreement_report(before: Detector, after: Detector, images: List[Path], source: str) -> str:
    """How many detections are found again on some images."""
    return f'int8 against float on {source}: {compare_files(before, after, images)}'


def sensitivity_report(graph: Path, images: List[Path], **choice) -> str:
    """The layers that cost most, each alone; ``choice`` as for :func:`quantize`."""
    costs = sensitivity(graph, images, **choice)
    lines = [f'each layer alone in int8, on {len(images)} images; the {ROWS} worst:']
    lines += [f'  {agreement.loss:.4f}  {name}' for name, agreement in costs[:ROWS]]
    return '\n'.join(lines)
