# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How the times of a training step grow: matching with the objects, steps with the processes."""

import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import MMLogger

from deim_mmdet.engine.any_device_ddp import AnyDeviceDistributedDataParallel

from .check_sum import check_sum
from .losses_alone import made_up_inputs
from .phase_clock import PhaseClock
from .training_step import StepOptions, build_step

STEPS = ('cost matrix', 'assignment', 'union and copies', 'losses')


@dataclass(frozen=True)
class MatchingTimes:
    """What matching and losses of a batch take.

    Attributes:
        batch_size (int): Images.
        objects (int): In each image.
        entries (int): Of the cost matrix: sets times objects times queries.
        seconds (dict[str, float]): Median of each of ``STEPS``.
    """

    batch_size: int
    objects: int
    entries: int
    seconds: Dict[str, float]


def matching_times(
    model: nn.Module, sizes: Sequence[Tuple[int, int]], runs: int
) -> List[MatchingTimes]:
    """Time matching and losses of made-up predictions.

    Args:
        model (RTDETR): Whose head; it is left with a clock in it.
        sizes (Sequence[tuple[int, int]]): Images, and objects in each.
        runs (int): Runs of each size.
    """
    device = next(model.parameters()).device
    head, clock = model.bbox_head, PhaseClock(device)
    clock.wrap(head.matcher, 'pairwise_cost', 'cost matrix')
    clock.wrap(head.matcher, 'match', 'assignment')
    clock.wrap(head, 'assign', 'union and copies')
    clock.wrap(head, 'loss', 'losses')
    rows = []
    for batch_size, objects in sizes:
        inputs = made_up_inputs(model, batch_size, objects, device)
        for run in range(runs + 1):
            if run == 1:  # the first one does not count
                clock.seconds.clear()
            head.loss(*inputs)
        num_sets, _, num_queries = inputs.sets.cls_scores.shape[:3]
        entries = num_sets * batch_size * objects * num_queries
        medians = {step: statistics.median(clock.seconds[step]) for step in STEPS}
        rows.append(MatchingTimes(batch_size, objects, entries, medians))
    return rows


@dataclass(frozen=True)
class Share:
    """What one of several processes did while the time ran.

    Attributes:
        images (int): That it trained on.
        images_crc32 (int): Check sum of them.
        weights_crc32 (int): Of the weights that it ended with.
        seconds (float): From the common beginning until all were done.
    """

    images: int
    images_crc32: int
    weights_crc32: int
    seconds: float


def train_together(
    config: Config, options: StepOptions, processes: int, steps: int, threads: int = 1
) -> List[Share]:
    """Training on the CPU in processes that exchange gradients by gloo, each with its own images.

    Args:
        config (Config): See :func:`build_step`.
        options (StepOptions): What each process is given, but for the seed: it is counted up.
        processes (int): How many.
        steps (int): Steps that count; two come before.
        threads (int): Of each process. Defaults to 1.

    Returns:
        list[Share]: Of each process.
    """
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (config, options, processes, steps, threads, scratch)
        torch.multiprocessing.spawn(_train, arguments, nprocs=processes)
        files = [Path(scratch, f'{rank}.json') for rank in range(processes)]
        return [Share(**json.loads(file.read_text())) for file in files]


def images_per_second(shares: Sequence[Share]) -> float:
    """Of all processes together.

    Raises:
        RuntimeError: The processes did not end with the same weights, so each trained by itself.
    """
    if len({share.weights_crc32 for share in shares}) > 1:
        raise RuntimeError(
            'processes that exchange gradients end with the same weights, but these ended with '
            f'{[share.weights_crc32 for share in shares]} (check sums): what was timed is no '
            'training together'
        )
    return sum(share.images for share in shares) / max(share.seconds for share in shares)


def _train(rank: int, config: Config, options, processes: int, steps: int, threads: int, scratch):
    """One process."""
    MMLogger.get_instance('mmdet', log_level='WARNING')  # no line per initialised tensor
    torch.set_num_threads(threads)
    store = f'file://{scratch}/store'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=processes)
    step = build_step(config, replace(options, seed=options.seed + rank))
    if processes > 1:
        step.model = AnyDeviceDistributedDataParallel(step.model)
    for _ in range(2):
        step()
    step.clock.seconds.clear()
    dist.barrier()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    dist.barrier()
    seconds = time.perf_counter() - begin
    images = step.data['inputs']
    share = Share(
        images=len(step.clock.totals()) * len(images),
        images_crc32=check_sum([images]),
        weights_crc32=check_sum(step.model.parameters()),
        seconds=seconds,
    )
    Path(scratch, f'{rank}.json').write_text(json.dumps(asdict(share)))
    dist.destroy_process_group()
