# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How the times of a training step grow: matching with the objects, steps with the processes."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import MMLogger

from deim_mmdet.engine.any_device_ddp import AnyDeviceDistributedDataParallel

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


def images_per_second(
    config: Config, options: StepOptions, processes: int, steps: int, threads: int = 1
) -> float:
    """Training on the CPU in processes that exchange gradients by gloo, each with its own images.

    Args:
        config (Config): See :func:`build_step`.
        options (StepOptions): What each process is given.
        processes (int): How many.
        steps (int): Steps that count; two come before.
        threads (int): Of each process. Defaults to 1.

    Returns:
        float: Of all processes together.
    """
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (config, options, processes, steps, threads, scratch)
        torch.multiprocessing.spawn(_train, arguments, nprocs=processes)
        seconds = float(Path(scratch, 'seconds').read_text())
    return processes * options.batch_size * steps / seconds


def _train(rank: int, config: Config, options, processes: int, steps: int, threads: int, scratch):
    """One process."""
    MMLogger.get_instance('mmdet', log_level='WARNING')  # no line per initialised tensor
    torch.set_num_threads(threads)
    store = f'file://{scratch}/store'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=processes)
    step = build_step(config, options)
    if processes > 1:
        step.model = AnyDeviceDistributedDataParallel(step.model)
    for count in range(2 + steps):
        if count == 2:
            dist.barrier()
            begin = time.perf_counter()
        step()
    dist.barrier()
    if rank == 0:
        Path(scratch, 'seconds').write_text(str(time.perf_counter() - begin))
    dist.destroy_process_group()
