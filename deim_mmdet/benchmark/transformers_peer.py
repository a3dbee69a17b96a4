# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The same detector in Hugging Face transformers, as a training step and as a loss alone."""

import inspect
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Dict, List, Tuple

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import Tensor

from deim_mmdet.convert.transformers_config import transformers_config
from deim_mmdet.convert.transformers_folder import write_transformers
from deim_mmdet.models.layers.prediction_sets import PredictionSets
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.targets import BatchTargets

from .from_config import dtype_of
from .phase_clock import PhaseClock
from .training_step import TrainingStep

# What transformers has without further code; it has nothing of DEIM.
NETWORKS = ('d_fine', 'rt_detr', 'rt_detr_v2')
HEADS = ('DFINEHead', 'RTDETRHead')
LOSS_CLS = 'IoUVarifocalLoss'
CONSTANTS = ('decoder.up', 'decoder.reg_scale')


class TransformersStep:
    """A training step there on the images and objects of a step here.

    Optimiser, clipping and precision are those of the other step; parameters are in one group.

    Args:
        model (PreTrainedModel): See :func:`transformers_model`.
        other (TrainingStep): The step here.

    Attributes:
        clock (PhaseClock): Its phases 'losses' contain the matching.
    """

    def __init__(self, model: nn.Module, other: TrainingStep) -> None:
        self.model = model
        self.images = other.data['inputs']
        self.labels = labels_of(targets_of(other))
        self.dtype = dtype_of(other.optim_wrapper)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = same_optimizer(other.optim_wrapper, self.parameters)
        self.clip = dict(other.optim_wrapper.clip_grad_kwargs or {})
        self.clock = PhaseClock(self.images.device)
        self.clock.wrap(model, 'forward', 'forward')
        self.clock.wrap(model, 'loss_function', 'losses')

    def __call__(self) -> None:
        with self.clock.measure('rest'):
            with mixed_precision(self.images.device, self.dtype):
                outputs = self.model(pixel_values=self.images, labels=self.labels)
            with self.clock.measure('backward'):
                outputs.loss.backward()
            with self.clock.measure('optimiser'):
                if self.clip:
                    nn.utils.clip_grad_norm_(self.parameters, **self.clip)
                self.optimizer.step()
            self.optimizer.zero_grad()


def transformers_step(config: Config, other: TrainingStep) -> TransformersStep:
    """The same step in transformers.

    Args:
        config (Config): Of the step here.
        other (TrainingStep): The step here.

    Raises:
        ImportError: See :func:`transformers_model`.
        ValueError: transformers has no such model or not its losses, or trains other parameters;
            or the precision is float16.
    """
    check_losses(config)
    if dtype_of(other.optim_wrapper) == torch.float16:
        raise ValueError(
            'beside transformers a step is timed in float32 and bfloat16, not in float16, which '
            'scales gradients: --cfg-options optim_wrapper.dtype=bfloat16, or leave --amp out'
        )
    model, _ = transformers_model(config, other.model)
    ours, theirs = count_trained(other.model), count_trained(model)
    if ours != theirs:
        raise ValueError(
            f'{ours:,} parameters are trained here, {theirs:,} in transformers: the config freezes '
            'what transformers does not'
        )
    return TransformersStep(model.train(), other)


def transformers_model(config: Config, model: nn.Module) -> Tuple[nn.Module, object]:
    """A model of transformers with our weights, on the same device.

    Args:
        config (Config): Of our model.
        model (BaseDetector): Our model.

    Returns:
        tuple[PreTrainedModel, BaseImageProcessor]: In evaluation mode; and what prepares its images
        and reads its results.

    Raises:
        ImportError: transformers or safetensors is missing.
        ValueError: transformers has no such model.
    """
    check_network(config)
    try:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
    except ImportError as error:
        raise ImportError(
            'a comparison with transformers needs it: pip install "transformers>=5" safetensors'
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, 'model')
        write_transformers(model.state_dict(), folder, config)
        theirs = AutoModelForObjectDetection.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder)
    for name, parameter in theirs.named_parameters():
        if name.endswith(CONSTANTS):  # loading weights lets them be trained
            parameter.requires_grad_(False)
    return theirs.to(next(model.parameters()).device).eval(), processor


def check_network(config: Config) -> None:
    """Refuse a network that transformers has not.

    Raises:
        ValueError: The message says which it has.
    """
    kind = transformers_config(config.model)['model_type']
    if kind not in NETWORKS:
        raise ValueError(
            f'transformers has the networks of {", ".join(NETWORKS)}; this one has the activations '
            'of DEIM. Compare the same size in configs/dfine or configs/rtdetrv2'
        )


def check_losses(config: Config) -> None:
    """Refuse losses that transformers has not, or lacks a part of here.

    Raises:
        ValueError: The message says which it has.
    """
    if not config.model.get('denoising'):
        raise ValueError(
            'transformers trains with denoising queries; this config has model.denoising=None. '
            'Compare a config that has them'
        )
    head = config.model.bbox_head
    loss = (head.get('loss_cls') or {}).get('type', LOSS_CLS)
    if head.type not in HEADS or loss != LOSS_CLS:
        raise ValueError(
            f'transformers has the losses of {" and ".join(HEADS)} with {LOSS_CLS}; this config '
            f'has {head.type} with {loss}. Compare the same size in configs/dfine or '
            'configs/rtdetrv2'
        )


def count_trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def targets_of(step: TrainingStep) -> BatchTargets:
    images = step.data['inputs']
    return BatchTargets.from_data_samples(
        step.data['data_samples'], tuple(images.shape[-2:]), images.device
    )


def labels_of(targets: BatchTargets) -> List[Dict[str, Tensor]]:
    """Objects as transformers takes them: normalised cxcywh."""
    labels, boxes = targets.labels.split(targets.counts), targets.boxes.split(targets.counts)
    return [dict(class_labels=label, boxes=box) for label, box in zip(labels, boxes)]


def same_optimizer(wrapper: OptimWrapper, parameters: List[Tensor]) -> torch.optim.Optimizer:
    """An optimiser of the same class and settings for other parameters."""
    kind = type(wrapper.optimizer)
    known = inspect.signature(kind).parameters  # AdamW keeps settings that it cannot be given
    settings = {key: value for key, value in wrapper.optimizer.defaults.items() if key in known}
    return kind(parameters, **settings)


def mixed_precision(device: torch.device, dtype: torch.dtype):
    """Context of a forward pass; float32 is none."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def transformers_loss(
    model: nn.Module,
    sets: PredictionSets,
    targets: BatchTargets,
    denoising_sets: PredictionSets,
    denoising: DenoisingQueries,
):
    """Matching and losses there, without the network.

    Args:
        model (PreTrainedModel): Whose losses.
        sets, targets, denoising_sets, denoising: As for our head's ``loss``.

    Returns:
        Callable: Computes ``(sum, dict of terms)``.
    """
    labels = labels_of(targets)
    num_first, num_layers = denoising.content.shape[1], len(denoising_sets.cls_scores)

    def joined(name: str) -> Tensor:
        """Denoising queries first, images first: (bs, S, Nd + N, ...)."""
        first, rest = getattr(denoising_sets, name), getattr(sets, name)
        stack = torch.cat([first, rest[-len(first) :]], dim=2).transpose(0, 1)
        return stack.detach().contiguous().requires_grad_()

    scores, bboxes = joined('cls_scores'), joined('bboxes')
    kwargs = dict(
        outputs_class=scores,
        outputs_coord=bboxes,
        enc_topk_logits=sets.cls_scores[0].detach().requires_grad_(),
        enc_topk_bboxes=sets.bboxes[0].detach().requires_grad_(),
        denoising_meta_values=dict(
            dn_positive_idx=[
                denoising.matches.query_index[denoising.matches.batch_index == image]
                for image in range(targets.batch_size)
            ],
            dn_num_group=denoising.num_groups,
            dn_num_split=[num_first, sets.cls_scores.shape[2]],
        ),
    )
    if sets.corners is not None:
        references = torch.cat([denoising_sets.references, sets.references], dim=1)
        kwargs.update(
            predicted_corners=joined('corners'),
            initial_reference_points=references[:, None].expand(-1, num_layers - 1, -1, -1),
        )

    def loss():
        return model.loss_function(
            scores[:, -1], labels, scores.device, bboxes[:, -1], model.config, **kwargs
        )[:2]

    return loss
