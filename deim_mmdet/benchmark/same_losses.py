# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Whether a model here and its peer in transformers compute the same losses.

Both get the same weights, images and objects, and denoising queries without noise, in training
mode. RT-DETR has the same terms in both. In D-FINE they differ, so that the terms of transformers
are put together here from the same functions that training uses, and it is these that must agree:

* box losses there take the pairs of each set, here the union set of all;
* there the edge distributions of layer i belong to the boxes and scores of layer i - 1, and the
  last layer has no fine-grained loss for the queries of the image;
* there boxes are first limited to the image;
* the last but one set of scores and boxes is not supervised there, nor is the last one of the
  denoising queries: two sets fewer than here.
"""

from contextlib import contextmanager
from typing import Dict, Optional, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from deim_mmdet.models.dense_heads.rtdetr_head import RTDETRHead
from deim_mmdet.models.dense_heads.stacked_losses import box_terms
from deim_mmdet.models.layers.prediction_sets import PredictionSets
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.matches import Matches
from deim_mmdet.models.task_modules.targets import BatchTargets
from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy
from deim_mmdet.ops.edge_distances import boxes_to_bins

from .training_step import TrainingStep
from .transformers_peer import TransformersStep

# Names there of the terms here.
TERMS = dict(
    loss_cls='loss_vfl',
    loss_bbox='loss_bbox',
    loss_iou='loss_giou',
    loss_fgl='loss_fgl',
    loss_ddf='loss_ddf',
)
# Relative difference of two terms of the same predictions: the order of additions.
SAME = 1e-3
# Of two networks: which of two tokens of equal score becomes the last query is left to rounding.
SAME_NETWORK = 2e-2
# Terms below this are compared with it: the distillation begins at zero.
SMALL = 1e-2
# Boxes of denoising queries keep their place. There 0 would also leave out their logit.
NO_NOISE = 1e-12


def same_losses(ours: TrainingStep, theirs: TransformersStep) -> Dict[str, Tuple[float, float]]:
    """The terms of a step of both, before any optimiser step.

    Returns:
        dict[str, tuple[float, float]]: By their name in transformers: the term here and there.

    Raises:
        ValueError: They differ; the message has the terms that differ most.
    """
    calls = []
    head, loss = ours.model.bbox_head, ours.model.bbox_head.loss
    head.loss = lambda *args: calls.append(args) or loss(*args)
    try:
        with torch.no_grad(), without_noise(ours.model, theirs.model):
            ours.model(**ours.data, mode='loss')
            outputs = theirs.model(pixel_values=theirs.images, labels=theirs.labels)
        terms = terms_as_in_transformers(head, *calls[0])
    finally:
        head.loss = loss
        for step in (ours, theirs):
            step.clock.seconds.clear()
    return check_same(terms, outputs.loss_dict, SAME_NETWORK)


def check_same(
    ours: Dict[str, Tensor], theirs: Dict[str, Tensor], tolerance: float = SAME
) -> Dict[str, Tuple[float, float]]:
    """Both values of each term; see :func:`same_losses`."""
    if set(ours) != set(theirs):
        raise ValueError(
            'transformers has other loss terms than this package expects, its version may be '
            f'another one: {", ".join(sorted(set(ours) ^ set(theirs)))}'
        )
    pairs = {name: (float(ours[name]), float(theirs[name])) for name in theirs}
    wrong = sorted(name for name in pairs if difference(*pairs[name]) > tolerance)
    if wrong:
        raise ValueError(
            'losses differ, so that times are not compared: '
            + ', '.join(
                f'{name} {pairs[name][0]:.5g} here, {pairs[name][1]:.5g} there' for name in wrong
            )
        )
    return pairs


def summary(pairs: Dict[str, Tuple[float, float]]) -> str:
    """How well they agree, in a sentence."""
    worst = max(difference(*pair) for pair in pairs.values())
    ours, theirs = (sum(values) for values in zip(*pairs.values()))
    return (
        f'{len(pairs)} loss terms agree to {worst:.1e}; their sum is {ours:.5g} here and '
        f'{theirs:.5g} there'
    )


def difference(ours: float, theirs: float) -> float:
    """Relative."""
    return abs(ours - theirs) / max(abs(theirs), SMALL)


@contextmanager
def without_noise(ours: nn.Module, theirs: nn.Module):
    """Denoising queries that are copies of the objects, the same in both models."""
    denoising, config = ours.denoising, theirs.config
    before = denoising.label_noise, denoising.box_noise
    before_there = config.label_noise_ratio, config.box_noise_scale
    denoising.label_noise, denoising.box_noise = 0.0, NO_NOISE
    config.label_noise_ratio, config.box_noise_scale = 0.0, NO_NOISE
    try:
        yield
    finally:
        denoising.label_noise, denoising.box_noise = before
        config.label_noise_ratio, config.box_noise_scale = before_there


def terms_as_in_transformers(
    head: RTDETRHead,
    sets: PredictionSets,
    targets: BatchTargets,
    denoising_sets: PredictionSets,
    denoising: DenoisingQueries,
) -> Dict[str, Tensor]:
    """The terms that transformers computes of these predictions, by our loss functions.

    Args:
        head (RTDETRHead): Whose losses.
        sets, targets, denoising_sets, denoising: As for ``head.loss``.

    Returns:
        dict[str, Tensor]: Weighted scalars, named as there.
    """
    is_dfine = sets.corners is not None
    num_left_out = 1 if is_dfine else 0
    num_objects = torch.tensor(float(max(sum(targets.counts), 1)))
    last = len(sets.bboxes) - 1
    # suffix, set, layer of the edge distributions; the encoder's set comes behind those of layers
    layers = range(1, last - num_left_out)
    entries = [(f'_aux_{i}', index, i if is_dfine else None) for i, index in enumerate(layers)]
    entries += [(f'_aux_{len(layers)}', 0, None), ('', last, None)]
    terms = {}
    for suffix, index, layer in entries:
        scores, bboxes = sets.cls_scores[index], sets.bboxes[index].clamp(0, 1)
        matches = head.matcher(scores[None], bboxes[None], targets)
        pairs = Matches(*(values[0] for values in vars(matches).values()))
        found = set_terms(head, sets, index, layer, targets, pairs, num_objects)
        terms.update({TERMS[name] + suffix: value for name, value in found.items()})
    for index in range(len(denoising_sets.bboxes) - num_left_out):
        layer, number = index if is_dfine else None, num_objects * denoising.num_groups
        found = set_terms(head, denoising_sets, index, layer, targets, denoising.matches, number)
        terms.update({f'{TERMS[name]}_dn_{index}': value for name, value in found.items()})
    return terms


def set_terms(
    head: RTDETRHead,
    sets: PredictionSets,
    index: int,
    layer: Optional[int],
    targets: BatchTargets,
    matches: Matches,
    normalizer: Tensor,
) -> Dict[str, Tensor]:
    """Terms of one set by some pairs, shape (P,); of one layer's edge distributions, if any."""
    bboxes = sets.bboxes[index : index + 1].clamp(0, 1)
    predicted, objects = matches.gather(bboxes), targets.boxes[matches.target_index]
    ious = aligned_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(objects))
    terms = box_terms(head.loss_bbox, head.loss_iou, predicted, objects, normalizer)
    terms['loss_cls'] = head.loss_cls.loss_per_set(
        sets.cls_scores[index : index + 1],
        matches,
        targets.labels[matches.target_index],
        ious,
        normalizer,
    )
    if layer is not None:
        references = sets.references[matches.batch_index, matches.query_index]
        terms['loss_fgl'] = head.loss_fgl(
            matches.gather(sets.corners[layer : layer + 1]),
            boxes_to_bins(references, objects, head.bin_values, head.reg_scale),
            ious,
            normalizer,
        )
        terms['loss_ddf'] = head.loss_ddf(
            sets.corners[[layer, -1]],
            sets.cls_scores[-1],
            matches,
            ious,
            head.loss_ddf.roots(len(matches), *bboxes.shape[1:3]),
        )
    return {name: values.sum() for name, values in terms.items()}
