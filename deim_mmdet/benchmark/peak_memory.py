# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmengine.config import Config

from .training_memory import PeakMeter
from .training_step import StepOptions, build_step


def peak_of_step(config: Config, options: StepOptions, peer: bool = False) -> int:
    """Most memory in use within a training step, beyond what is in use between two steps.

    On the CPU this is memory of the process, so call this in one that has done nothing yet: see
    :func:`.training_memory.apart`.

    Args:
        config (Config): See :func:`build_step`.
        options (StepOptions): What the step is given.
        peer (bool): Of the same step in transformers. Defaults to False.

    Returns:
        int: Bytes.
    """
    step = build_step(config, options)
    if peer:
        from .transformers_peer import transformers_step

        step = transformers_step(config, step)
    step()  # the optimiser has its state now
    meter = PeakMeter(torch.device(options.device))
    step()
    return meter.read()
