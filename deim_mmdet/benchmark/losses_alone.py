# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Matching and losses without a network: predictions of the shapes of a model, made up."""

import statistics
from functools import partial
from typing import Callable, Dict, NamedTuple, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from deim_mmdet.models.layers.prediction_sets import PredictionSets
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.targets import BatchTargets

from .latency import host_timer, time_in_turn
from .same_losses import check_same, terms_as_in_transformers
from .transformers_peer import transformers_loss

Terms = Dict[str, Tuple[float, float]]
# Class logits of a model in training: most of them far below zero.
MEAN_LOGIT = -4.0
# How far denoising queries have come from where they began, in logits.
REFINED = 0.2


class LossInputs(NamedTuple):
    """Arguments of the ``loss`` of a head of this package. Predictions take gradients.

    Attributes:
        sets (PredictionSets): Class logits, shape (S, bs, N, C), boxes and so on.
        targets (BatchTargets): The objects.
        denoising_sets (PredictionSets): Of the layers, with the denoising queries in place of N.
        denoising (DenoisingQueries): What these began as.
    """

    sets: PredictionSets
    targets: BatchTargets
    denoising_sets: PredictionSets
    denoising: DenoisingQueries


def made_up_inputs(model: nn.Module, batch_size: int, objects: int, device) -> LossInputs:
    """Random objects and predictions of the shapes that a model has in training.

    Args:
        model (RTDETR): With denoising queries.
        batch_size (int): Images.
        objects (int): In each image.
        device (torch.device): Where they are wanted.

    Returns:
        LossInputs: S sets of N queries, and the same layers of the denoising queries.

    Raises:
        ValueError: The model has no denoising queries.
    """
    if model.denoising is None:
        raise ValueError(
            'losses are made up with denoising queries; this model has denoising=None. Leave it as '
            'its config has it'
        )
    head, decoder = model.bbox_head, model.decoder
    with torch.no_grad():
        targets = BatchTargets.from_flat(
            torch.randint(head.num_classes, (batch_size * objects,), device=device),
            random_boxes(batch_size * objects, device=device),
            [objects] * batch_size,
        )
        denoising = model.denoising(targets, model.num_queries)
    num_bins = 4 * (decoder.reg_max + 1) if hasattr(decoder, 'reg_max') else 0
    # D-FINE's first layer also predicts the box that edges are measured from
    num_sets = decoder.num_layers + bool(num_bins)

    def predictions(bboxes: Tensor, references: Tensor) -> PredictionSets:
        shape = bboxes.shape[:3]
        scores = MEAN_LOGIT + torch.randn(*shape, head.num_classes, device=device)
        tensors = [scores.requires_grad_(), bboxes.requires_grad_()]
        if num_bins:
            layers = (decoder.num_layers, *shape[1:])
            tensors += [torch.randn(*layers, num_bins, device=device).requires_grad_(), references]
        return PredictionSets(*tensors)

    shape = (num_sets + 1, batch_size, model.num_queries)  # the encoder's set, too
    noisy = denoising.references.expand(num_sets, -1, -1, -1)
    refined = (noisy + REFINED * torch.randn_like(noisy)).sigmoid()
    return LossInputs(
        predictions(random_boxes(*shape, device=device), random_boxes(*shape[1:], device=device)),
        targets,
        predictions(refined, denoising.references.sigmoid()),
        denoising,
    )


def random_boxes(*shape: int, device) -> Tensor:
    """Normalised boxes inside the image, shape (..., 4), ordered (cx, cy, w, h)."""
    wh = 0.02 + 0.2 * torch.rand(*shape, 2, device=device)
    return torch.cat([wh / 2 + (1 - wh) * torch.rand(*shape, 2, device=device), wh], dim=-1)


def time_losses(
    ours: nn.Module, theirs: nn.Module, batch_size: int, objects: int, runs: int
) -> Tuple[Terms, Dict[str, Tuple[float, float]]]:
    """Time matching and losses here and in transformers, in turns, on the same predictions.

    Args:
        ours (RTDETR): Our model.
        theirs (PreTrainedModel): See :func:`transformers_model`.
        batch_size (int): Images.
        objects (int): In each image.
        runs (int): Runs of each.

    Returns:
        tuple: Terms as :func:`check_same` gives them, and name -> median seconds here and there.

    Raises:
        ValueError: The losses differ.
    """
    device = next(ours.parameters()).device
    inputs = made_up_inputs(ours, batch_size, objects, device)
    there = transformers_loss(theirs, *inputs)
    with torch.no_grad():
        terms = check_same(terms_as_in_transformers(ours.bbox_head, *inputs), there()[1])

    def here():
        return (torch.stack(list(ours.bbox_head.loss(*inputs).values())).sum(),)

    losses = {'here': here, 'there': there}
    medians = {}
    for name, is_backward in (('matching + losses', False), ('with their backward pass', True)):
        timers = {
            side: host_timer(partial(run_loss, loss, device, is_backward))
            for side, loss in losses.items()
        }
        times = time_in_turn(timers, runs, warmup=1, block=1)
        medians[name] = tuple(statistics.median(times[side]) / 1000 for side in losses)
    return terms, medians


def run_loss(loss: Callable[[], tuple], device: torch.device, is_backward: bool) -> None:
    """Return when the device is done."""
    total = loss()[0]
    if is_backward:
        total.backward()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
