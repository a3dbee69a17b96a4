# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What a training step of a detector keeps in memory, and what freezing parts of it saves.

Counted are the tensors that autograd keeps from the forward pass for the backward pass, each
storage once; measured is the most that the step has in use. Training with frozen parts is to need
less by what these parts keep in full training, and by their gradients and optimiser state.
"""

import multiprocessing
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple
from weakref import WeakSet

import torch
import torch.nn as nn
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from torch import Tensor

from deim_mmdet.engine.recipe import find_hook
from deim_mmdet.engine.staged_freeze_hook import find_part, freeze

from .from_config import build_detector, build_optimizer

OBJECTS = 20  # in each image; COCO has 7
MMAP_THRESHOLD = 'MALLOC_MMAP_THRESHOLD_'


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step.

    Attributes:
        saved_in_parts (int): What autograd keeps for the backward pass because of the named parts
            alone. Weights, statistics and the images exist anyway and are not counted.
        saved_elsewhere (int): What it keeps because of everything else.
        gradients (int): Of the parameters.
        optimizer (int): State of the optimiser.
        peak (int): Most in use within a step, beyond what is in use between two steps.
    """

    saved_in_parts: int
    saved_elsewhere: int
    gradients: int
    optimizer: int
    peak: int


def training_memory(
    cfg: Config,
    parts: Sequence[str],
    is_frozen: bool,
    hw: Tuple[int, int] = (640, 640),
    batch_size: int = 2,
    amp: bool = False,
) -> TrainingMemory:
    """Train two steps on noise images, on the GPU if there is one.

    On the CPU the peak is that of the process, so call this in one that has done nothing yet: see
    :func:`training_memory_apart`.

    Args:
        cfg (Config): With ``model`` and ``optim_wrapper``.
        parts (Sequence[str]): Dotted names of submodules, see :class:`StagedFreezeHook`.
        is_frozen (bool): Whether these are frozen, or trained with the rest.
        hw (tuple[int, int]): Height and width of the images in pixels. Defaults to (640, 640).
        batch_size (int): Images. Defaults to 2.
        amp (bool): With the mixed precision of the config. Defaults to False: float32.

    Returns:
        TrainingMemory: The figures.

    Raises:
        ValueError: The model has no such part; the message lists those that it has. Or it has no
            ``bbox_head`` with a number of classes.
    """
    if 'num_classes' not in (cfg.model.get('bbox_head') or {}):
        raise ValueError(
            'the memory of a step is measured with boxes and labels: it needs a detector whose '
            f'bbox_head has num_classes, but that of {cfg.model.type} has not. DETRs and one-stage '
            'detectors have one.'
        )
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    model = build_detector(cfg, str(device))
    modules = [find_part(model, name) for name in parts]
    if is_frozen:
        for module in modules:
            freeze(module)
            module.requires_grad_(False)
    optim_wrapper = build_optimizer(model, cfg, amp)
    batch = demo_mm_inputs(
        batch_size, (3, *hw), [OBJECTS] * batch_size, num_classes=model.bbox_head.num_classes
    )

    saved = SavedForBackward(model, modules)
    train_step(model, optim_wrapper, batch, saved)
    # the optimiser has its state now: from here on every step needs the same
    meter = PeakMeter(device)
    train_step(model, optim_wrapper, batch)
    trained = [p for p in model.parameters() if p.requires_grad]
    states = [s for state in optim_wrapper.optimizer.state.values() for s in state.values()]
    return TrainingMemory(
        saved_in_parts=saved.in_parts,
        saved_elsewhere=saved.elsewhere,
        gradients=sum(map(size_of, trained)),
        optimizer=sum(size_of(state) for state in states if isinstance(state, Tensor)),
        peak=meter.read(),
    )


def training_memory_apart(cfg: Config, *args) -> TrainingMemory:
    """:func:`training_memory` in a process of its own."""
    return apart(training_memory, cfg, *args)


def apart(function: Callable, *args):
    """Call a function in a new process, whose memory is that of this call alone.

    Args:
        function (Callable): At the top level of a module.
        args: Its arguments; they and the result are copied.
    """
    quiet = partial(MMLogger.get_instance, 'mmdet', log_level='WARNING')  # no line per tensor
    with _freed_memory_goes_back(), multiprocessing.get_context('spawn').Pool(1, quiet) as pool:
        return pool.apply(function, args)


@contextmanager
def _freed_memory_goes_back():
    """Lets processes that are begun inside hold what they use and no more (glibc)."""
    before = os.environ.get(MMAP_THRESHOLD)
    os.environ.setdefault(MMAP_THRESHOLD, '65536')
    try:
        yield
    finally:
        if before is None:
            del os.environ[MMAP_THRESHOLD]


def parts_to_freeze(cfg: Config) -> Optional[List[str]]:
    """What the hook of a config freezes, None if it has none."""
    hook = find_hook(cfg, 'StagedFreezeHook')
    return None if hook is None else list(hook['parts'])


class SavedForBackward:
    """Counts what autograd keeps of a forward pass, and for whom.

    A storage that is kept by a part and by what follows it, as the output of the last frozen layer,
    is not the part's alone.

    Args:
        model (nn.Module): The detector.
        parts (Sequence[nn.Module]): Submodules of it.
    """

    def __init__(self, model: nn.Module, parts: Sequence[nn.Module]):
        self.in_parts = self.elsewhere = 0
        self._existing = {storage_of(t) for t in (*model.parameters(), *model.buffers())}
        self._depth = 0  # of calls of the parts
        self._kept: WeakSet = WeakSet()
        for part in parts:
            part.register_forward_pre_hook(self._enter)
            part.register_forward_hook(self._leave)

    def hooks(self, images: Tensor) -> torch.autograd.graph.saved_tensors_hooks:
        """Context of the forward pass of ``images``, which exist anyway."""
        self._existing.add(storage_of(images))
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def count(self) -> None:
        """What is kept now, between forward and backward pass."""
        sizes: Dict[int, int] = {}
        elsewhere = set()
        for kept in self._kept:
            storage = storage_of(kept.tensor)
            if storage not in self._existing:
                sizes[storage] = kept.tensor.untyped_storage().nbytes()
                if not kept.is_of_part:
                    elsewhere.add(storage)
        self.elsewhere = sum(sizes[storage] for storage in elsewhere)
        self.in_parts = sum(sizes.values()) - self.elsewhere

    def _pack(self, tensor: Tensor) -> 'Kept':
        kept = Kept(tensor, self._depth > 0)
        self._kept.add(kept)
        return kept

    def _enter(self, *_) -> None:
        self._depth += 1

    def _leave(self, *_) -> None:
        self._depth -= 1


class Kept:
    """A tensor that the graph keeps: it ends with the node that needs it."""

    def __init__(self, tensor: Tensor, is_of_part: bool):
        self.tensor = tensor
        self.is_of_part = is_of_part


class PeakMeter:
    """Most memory in use since it was made, beyond what was in use then.

    On the CPU this is memory of the process, whose peak must not have been higher before.

    Args:
        device (torch.device): Whose memory.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            import psutil  # not needed with a GPU

            self.before = psutil.Process().memory_info().rss

    def read(self) -> int:
        """Bytes."""
        if self.device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return peak_of_process() - self.before


def peak_of_process() -> int:
    """Most memory that this process has held, in bytes."""
    status = Path('/proc/self/status')
    if status.exists():
        # NOTE not getrusage: on Linux its peak includes what the parent held when it forked
        return 1024 * int(re.search(r'VmHWM:\s*(\d+) kB', status.read_text())[1])
    import resource  # not on Windows

    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train_step(
    model: nn.Module,
    optim_wrapper: OptimWrapper,
    batch: dict,
    saved: Optional[SavedForBackward] = None,
) -> None:
    """What ``model.train_step`` does; ``saved`` counts between forward and backward pass."""
    data = model.data_preprocessor(batch, training=True)
    with optim_wrapper.optim_context(model):
        if saved is None:
            losses = model(**data, mode='loss')
        else:
            with saved.hooks(data['inputs']):
                losses = model(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
    if saved is not None:
        saved.count()
    optim_wrapper.update_params(loss)


def storage_of(tensor: Tensor) -> int:
    """Where the data of a tensor begin; views share it."""
    return tensor.untyped_storage().data_ptr()


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()
