# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Which query answers for each object, for every detector that matches queries one to one."""

from typing import List, Optional, Tuple

import torch
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from deim_mmdet.models.detectors.rtdetr import RTDETR
from deim_mmdet.models.task_modules.targets import BatchTargets
from deim_mmdet.ops.boxes import cxcywh_to_xyxy

UNMATCHED = -1


def check_has_queries(detector: nn.Module) -> None:
    """Refuse detectors without one-to-one matching.

    Args:
        detector (nn.Module): The detector.

    Raises:
        TypeError: If it is neither of the family of :class:`RTDETR` nor a DETR of mmdet, or reads
            its classes from text.
    """
    if hasattr(detector, 'language_model'):
        raise TypeError(
            'matchings are compared between queries that score a fixed list of classes, but '
            f'{type(detector).__name__} scores the words of a text; remove MatchingStabilityHook '
            'from its config'
        )
    has_assigner = hasattr(getattr(detector, 'bbox_head', None), 'assigner')
    is_detr = isinstance(detector, DetectionTransformer) and has_assigner
    if isinstance(detector, RTDETR) or is_detr:
        return
    raise TypeError(
        'only a detector that matches queries and objects one to one has a matching that can be '
        f"stable: those of RT-DETR's family (RTDETR, DFINE, DEYO) and mmdet's DETRs. Got "
        f'{type(detector).__name__}; remove MatchingStabilityHook from its config'
    )


@torch.no_grad()
def matched_queries(
    detector: nn.Module, batch_inputs: Tensor, batch_data_samples: SampleList
) -> List[Tensor]:
    """Match the predictions that are evaluated (the final layer's) as training would.

    The costs are those of the model's own head: ``SetMatcher`` here, the assigner in mmdet.

    A query has an identity that lasts. Learned queries have their index. Where queries are selected
    among the tokens of the image (RT-DETR's family, DINO, DDQ, two-stage Deformable DETR) the index
    is only a rank, which changes with every score, so the token counts.

    Args:
        detector (nn.Module): In evaluation mode; see :func:`check_has_queries`.
        batch_inputs (Tensor): Images, shape (bs, 3, H, W).
        batch_data_samples (list[DetDataSample]): With ``gt_instances``, boxes in pixels of the
            input, ordered (x1, y1, x2, y2).

    Returns:
        list[Tensor]: Identity of the query of each object, per image shape (objects,), long, on the
        CPU; -1 where there are fewer queries than objects.
    """
    find = _of_ours if isinstance(detector, RTDETR) else _of_mmdet
    return find(detector, batch_inputs, batch_data_samples)


def _of_ours(
    detector: RTDETR, batch_inputs: Tensor, batch_data_samples: SampleList
) -> List[Tensor]:
    targets = BatchTargets.from_data_samples(
        batch_data_samples, tuple(batch_inputs.shape[-2:]), batch_inputs.device
    )
    memory, spatial_shapes, selected = detector.propose(batch_inputs)
    sets = detector.decode(memory, spatial_shapes, selected)
    matches = detector.bbox_head.matcher.match(sets.cls_scores[-1:], sets.bboxes[-1:], targets)

    queries = torch.full((len(targets.labels),), UNMATCHED)
    tokens = selected.index.cpu().numpy()[matches.batch_index[0], matches.query_index[0]]
    queries[torch.from_numpy(matches.target_index[0])] = torch.from_numpy(tokens)
    return list(queries.split(targets.counts))


def _of_mmdet(
    detector: DetectionTransformer, batch_inputs: Tensor, batch_data_samples: SampleList
) -> List[Tensor]:
    cls_scores, bboxes, tokens = _predict(detector, batch_inputs, batch_data_samples)
    found = []
    for i, sample in enumerate(batch_data_samples):
        # NOTE mmdet's DETRs predict in units of the image, ours in those of the padded input
        height, width = sample.img_shape[:2]
        pixels = cxcywh_to_xyxy(bboxes[i]) * bboxes.new_tensor([width, height, width, height])
        assigned = detector.bbox_head.assigner.assign(
            pred_instances=InstanceData(scores=cls_scores[i], bboxes=pixels),
            gt_instances=sample.gt_instances,
            img_meta=sample.metainfo,
        )
        is_matched = assigned.gt_inds > 0  # they count from 1
        identity = torch.arange(len(is_matched)) if tokens is None else tokens[i].cpu()
        queries = torch.full((len(sample.gt_instances),), UNMATCHED)
        queries[assigned.gt_inds[is_matched].cpu() - 1] = identity[is_matched.cpu()]
        found.append(queries)
    return found


def _predict(
    detector: DetectionTransformer, batch_inputs: Tensor, batch_data_samples: SampleList
) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
    """Predictions of the final layer.

    Args:
        detector (DetectionTransformer): In evaluation mode.
        batch_inputs (Tensor): Images, shape (bs, 3, H, W).
        batch_data_samples (list[DetDataSample]): With the metainfo of the images.

    Returns:
        tuple: Class logits, shape (bs, N, C); boxes as cxcywh in units of the image, shape
        (bs, N, 4); and if queries are selected, the token of each, shape (bs, N), else None.
    """
    features = detector.extract_feat(batch_inputs)
    encoder_inputs, decoder_inputs = detector.pre_transformer(features, batch_data_samples)
    encoded = detector.forward_encoder(**encoder_inputs)
    queries, head_inputs = detector.pre_decoder(**encoded)
    decoded = detector.forward_decoder(**{**decoder_inputs, **queries})
    cls_scores, bboxes = detector.bbox_head(**head_inputs, **decoded)

    tokens = None
    if getattr(detector, 'as_two_stage', False):
        tokens = _selected_tokens(detector, queries['reference_points'], **encoded)
    return cls_scores[-1].float(), bboxes[-1].float(), tokens


def _selected_tokens(
    detector: DetectionTransformer,
    references: Tensor,
    memory: Tensor,
    memory_mask: Tensor,
    spatial_shapes: Tensor,
) -> Tensor:
    """The tokens whose boxes are the references (bs, N, 4): however they were selected, each is a
    copy of the box of its token."""
    tokens, proposals = detector.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
    boxes = detector.bbox_head.reg_branches[detector.decoder.num_layers](tokens) + proposals
    return torch.cdist(references.float(), boxes.sigmoid().float(), p=1).argmin(-1)
