# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from typing import Tuple

import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.models.task_modules.matches import Matches

# The batch size per device the published loss is balanced for.
_REFERENCE_BATCH_SIZE = 8


def edge_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of edge distributions from those of the teacher, times temperature squared.

    Args:
        student (Tensor): Logits of the bins, shape (..., bs, N, 4 * (reg_max + 1)).
        teacher (Tensor): Logits of the bins, shape (bs, N, 4 * (reg_max + 1)). Detached here.
        temperature (float): Divides all logits.

    Returns:
        Tensor: Sum over the four sides, shape (..., bs, N).
    """
    # (..., 4 * (reg_max + 1)) -> (..., 4, reg_max + 1)
    log_student = (student / temperature).unflatten(-1, (4, -1)).log_softmax(-1)
    log_teacher = (teacher.detach() / temperature).unflatten(-1, (4, -1)).log_softmax(-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum((-2, -1))
    return temperature**2 * divergence


@MODELS.register_module()
class DecoupledDistillationFocalLoss(nn.Module):
    """DDF of `D-FINE <https://arxiv.org/abs/2410.13842>`_: the last layer teaches the others.

    The divergence of each query's edge distributions weighs as much as the IoU of its box where
    it is matched, and as the teacher's best class probability elsewhere. The means over matched and
    over unmatched queries are averaged with the weights :meth:`roots`.

    Args:
        temperature (float): Softens student and teacher. Defaults to 5.
        loss_weight (float): Factor of the result. Defaults to 1.5.
    """

    def __init__(self, temperature: float = 5.0, loss_weight: float = 1.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got {temperature}; D-FINE uses 5')
        self.temperature = temperature
        self.loss_weight = loss_weight

    def forward(
        self,
        corners: Tensor,
        teacher_scores: Tensor,
        matches: Matches,
        ious: Tensor,
        roots: Tuple[float, float],
    ) -> Tensor:
        """Loss of each decoder layer but the last, in one go.

        Args:
            corners (Tensor): Logits of the bins, shape (L, bs, N, 4 * (reg_max + 1)); the last
                layer is the teacher.
            teacher_scores (Tensor): Class logits of the last layer, shape (bs, N, C).
            matches (Matches): Pairs that hold in all layers, shape (P,), no query twice.
            ious (Tensor): IoU of each layer's box with its object, shape (L, P); the last row is
                not used. Detached here.
            roots (tuple[float, float]): Weights of the matched and the unmatched queries, from
                :meth:`roots`. Denoising queries use those of the normal queries.

        Returns:
            Tensor: Shape (L - 1,), times ``loss_weight``.
        """
        students, teacher = corners[:-1].float(), corners[-1].float()
        num_students, batch_size, num_queries = students.shape[:3]
        index = matches.index(num_students)

        confidence = teacher_scores.detach().float().amax(-1).sigmoid()  # (bs, N)
        weights = confidence.repeat(num_students, 1, 1)
        weights[index] = ious[:num_students].detach().float()

        # both means at once: the share of one side of one query in the result
        num_matched = len(matches)
        num_unmatched = batch_size * num_queries - num_matched
        root_matched, root_unmatched = (root / sum(roots) for root in roots)
        share = weights.new_full(weights.shape, root_unmatched / max(4 * num_unmatched, 1))
        share[index] = root_matched / max(4 * num_matched, 1)

        divergence = edge_divergence(students, teacher, self.temperature)
        return self.loss_weight * (divergence * weights * share).sum((1, 2))

    @staticmethod
    def roots(num_matched: int, batch_size: int, num_queries: int) -> Tuple[float, float]:
        """Weights of matched and unmatched queries: the roots of how many sides there are of each.

        Args:
            num_matched (int): Matched queries in the batch.
            batch_size (int): Images in the batch.
            num_queries (int): Queries of an image, matched or not.

        Returns:
            tuple[float, float]: For matched and unmatched queries; one of them is positive.
        """
        num_unmatched = batch_size * num_queries - num_matched
        per_image = _REFERENCE_BATCH_SIZE / batch_size
        return math.sqrt(4 * num_matched * per_image), math.sqrt(4 * num_unmatched * per_image)
