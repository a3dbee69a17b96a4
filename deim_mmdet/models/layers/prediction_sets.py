# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, replace
from typing import Optional, Tuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class PredictionSets:
    """Stacked predictions of a decoder: one set per supervised output, the final layer last.

    Attributes:
        cls_scores (Tensor): Class logits, shape (S, bs, N, C).
        bboxes (Tensor): Normalised boxes, shape (S, bs, N, 4), ordered (cx, cy, w, h), each in
            [0, 1].
        corners (Tensor, optional): Edge distribution logits of the last L sets (D-FINE), shape
            (L, bs, N, 4 * (reg_max + 1)), sides ordered (left, top, right, bottom).
        references (Tensor, optional): Detached boxes the edge distances start from (D-FINE), shape
            (bs, N, 4), like ``bboxes``.
    """

    cls_scores: Tensor
    bboxes: Tensor
    corners: Optional[Tensor] = None
    references: Optional[Tensor] = None

    def split_queries(self, num_first: int) -> Tuple['PredictionSets', 'PredictionSets']:
        """Separate the first ``num_first`` queries (denoising) from the rest."""

        def cut(part: slice) -> 'PredictionSets':
            return PredictionSets(
                cls_scores=self.cls_scores[:, :, part],
                bboxes=self.bboxes[:, :, part],
                corners=None if self.corners is None else self.corners[:, :, part],
                references=None if self.references is None else self.references[:, part],
            )

        return cut(slice(None, num_first)), cut(slice(num_first, None))

    def prepend(self, cls_scores: Tensor, bboxes: Tensor) -> 'PredictionSets':
        """Put the encoder's predictions, (bs, N, C) and (bs, N, 4), in front as one more set."""
        return replace(
            self,
            cls_scores=torch.cat([cls_scores.unsqueeze(0), self.cls_scores]),
            bboxes=torch.cat([bboxes.unsqueeze(0), self.bboxes]),
        )

    def float(self) -> 'PredictionSets':
        """The same in single precision: losses and matching are computed in it under AMP."""
        return PredictionSets(
            *(
                None if tensor is None else tensor.float()
                for tensor in (self.cls_scores, self.bboxes, self.corners, self.references)
            )
        )
