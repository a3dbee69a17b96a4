# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox2distance, distance2bbox, get_box_tensor
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptInstanceList, reduce_mean
from mmengine.model import bias_init_with_prob
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..layers.conv import fuse_all
from ..layers.dfl_box_branch import DFLBoxBranch, build_convs, flatten_levels
from ..layers.yolov8_layers import YOLOV8_ACT, YOLOV8_NORM

# What the class scores of a level add up to before training, at 640 x 640: about what the cells of
# an object or two will have. More, and the first steps only teach thousands of cells to be empty.
INITIAL_SCORES = 10
INITIAL_SIZE = 640


@MODELS.register_module()
class YOLOv8Head(BaseDenseHead):
    """Head of YOLOv8: every cell of every level predicts a box and a score per class.

    Trained one-to-many: several cells answer for an object (:class:`BatchTaskAlignedAssigner`), and
    non-maximum suppression leaves one of them in the end.

    Source: section 3 of DEYO (`arXiv:2402.16370 <https://arxiv.org/abs/2402.16370>`_), whose first
    stage this is; TOOD (arXiv 2108.07755) for assignment and classification loss, GFL (arXiv
    2006.04388) for the distributions.

    Args:
        num_classes (int): Number of classes C.
        in_channels (Sequence[int]): Channels of the levels, finest first.
        strides (Sequence[int]): Strides of the levels in pixels. Defaults to (8, 16, 32).
        reg_max (int): Bins of each distribution R. Defaults to 16.
        cls_channels (int, optional): Channels of the class branch. Defaults to None: those of the
            finest level, or the number of classes, but 100 at the most, where that is more. Set it
            to start from weights of another number of classes.
        loss_cls (dict): Loss of the class scores against soft targets.
        loss_bbox (dict): IoU loss of the boxes.
        loss_dfl (dict): Loss of the distributions.
        assigner (dict): Config of the assigner.
        norm_cfg (dict): Norm layer. Defaults to ``YOLOV8_NORM``.
        act_cfg (dict): Activation. Defaults to ``YOLOV8_ACT``.
        train_cfg (dict, optional): Unused; accepted as every mmdet head does.
        test_cfg (dict, optional): ``score_thr``, ``nms_pre`` (per level), ``nms``,
            ``max_per_img``.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: ``num_classes`` below 1, or ``strides`` that do not go with ``in_channels``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        strides: Sequence[int] = (8, 16, 32),
        reg_max: int = 16,
        cls_channels: Optional[int] = None,
        loss_cls: ConfigType = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
        loss_bbox: ConfigType = dict(type='CompleteIoULoss', loss_weight=7.5),
        loss_dfl: ConfigType = dict(type='DistributionFocalLoss', loss_weight=1.5),
        assigner: ConfigType = dict(type='BatchTaskAlignedAssigner', topk=10, alpha=0.5, beta=6.0),
        norm_cfg: dict = YOLOV8_NORM,
        act_cfg: dict = YOLOV8_ACT,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        init_cfg: OptConfigType = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_classes < 1:
            raise ValueError(f'num_classes must be at least 1, got {num_classes}')
        if len(strides) != len(in_channels):
            raise ValueError(
                f'strides {tuple(strides)} and in_channels {tuple(in_channels)} must name the same '
                'levels.'
            )
        self.num_classes = self.cls_out_channels = num_classes
        self.strides = tuple(strides)
        self.test_cfg = test_cfg
        cls_channels = cls_channels or max(in_channels[0], min(num_classes, 100))
        self.cls_convs = build_convs(in_channels, cls_channels, norm_cfg, act_cfg)
        self.cls_branches = nn.ModuleList(
            nn.Conv2d(cls_channels, num_classes, 1) for _ in in_channels
        )
        self.box_branch = DFLBoxBranch(in_channels, strides, reg_max, norm_cfg, act_cfg)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.loss_dfl = MODELS.build(loss_dfl)
        self.assigner = TASK_UTILS.build(assigner)
        # what mmdet's prediction asks for
        self.use_sigmoid_cls = True
        self.prior_generator = self.box_branch.prior_generator
        self.bbox_coder = TASK_UTILS.build(dict(type='DistancePointBBoxCoder'))

    def init_weights(self) -> None:
        super().init_weights()
        for branch, stride in zip(self.cls_branches, self.strides):
            num_scores = self.num_classes * (INITIAL_SIZE / stride) ** 2
            nn.init.constant_(branch.bias, bias_init_with_prob(INITIAL_SCORES / num_scores))

    def forward(self, levels: Sequence[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """Raw predictions.

        Args:
            levels (Sequence[Tensor]): Features, level i of shape (bs, in_channels[i], H_i, W_i).

        Returns:
            tuple[list[Tensor], list[Tensor]]: Per level class logits, (bs, C, H_i, W_i), and
            logits of the distributions, (bs, 4 * R, H_i, W_i), see :class:`DFLBoxBranch`.
        """
        cls_scores = [
            branch(convs(level))
            for level, convs, branch in zip(levels, self.cls_convs, self.cls_branches)
        ]
        return cls_scores, self.box_branch(levels)

    def loss_by_feat(
        self,
        cls_scores: List[Tensor],
        bbox_preds: List[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: Optional[List[dict]] = None,
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> Dict[str, Tensor]:
        """Assign once, lose once.

        Args:
            cls_scores (list[Tensor]): Class logits, see :meth:`forward`.
            bbox_preds (list[Tensor]): Logits of the distributions, see :meth:`forward`.
            batch_gt_instances (list[InstanceData]): ``bboxes`` in pixels of the input, ordered (x1,
                y1, x2, y2), and ``labels``, of each image.
            batch_img_metas (list[dict], optional): Not used.
            batch_gt_instances_ignore (list[InstanceData], optional): Not used: crowd regions are
                background.

        Returns:
            dict[str, Tensor]: Weighted scalars ``loss_cls``, ``loss_bbox``, ``loss_dfl``, for every
            batch the same keys.
        """
        with torch.autocast(cls_scores[0].device.type, enabled=False):
            logits = flatten_levels(cls_scores).float()  # (bs, T, C)
            distributions = flatten_levels(bbox_preds).float()  # (bs, T, 4 * R)
            centres, strides = self.box_branch.cells(cls_scores)
            objects = pad_objects(batch_gt_instances, logits.device)
            with torch.no_grad():
                distances = self.box_branch.integral(distributions) * strides
            cells = self.assigner(
                logits.detach().sigmoid(), distance2bbox(centres, distances), centres, *objects
            )
            (total,) = reduce_mean(cells.score.sum()[None]).clamp(min=1)

            targets = self.soft_targets(logits, objects.labels, cells.index, cells.score)
            loss_cls = self.loss_cls(logits, targets, avg_factor=total)

            # (bs, M, K) places of cells -> P pairs of cell and object, most of them of weight 0
            pairs = cells.index.flatten(1)
            weights = cells.score.flatten()
            picked = distributions.gather(
                1, pairs[:, :, None].expand(-1, -1, distributions.shape[-1])
            ).flatten(0, 1)
            points, strides = centres[pairs].flatten(0, 1), strides[pairs].flatten(0, 1)
            boxes = objects.boxes[:, :, None].expand(*cells.index.shape, 4).reshape(-1, 4)
            loss_bbox = self.box_losses(picked, points, strides, boxes)
            loss_dfl = self.distribution_losses(picked, points / strides, boxes / strides)
        return dict(
            loss_cls=loss_cls,
            loss_bbox=(loss_bbox * weights).sum() / total,
            loss_dfl=(loss_dfl * weights).sum() / total,
        )

    def soft_targets(self, logits: Tensor, labels: Tensor, index: Tensor, score: Tensor) -> Tensor:
        """Scores that the cells are to have.

        Args:
            logits (Tensor): Class logits, shape (bs, T, C).
            labels (Tensor): Classes of the objects, shape (bs, M).
            index (Tensor): Cells of each object, shape (bs, M, K).
            score (Tensor): Scores of those cells, shape (bs, M, K), 0 where there is none.

        Returns:
            Tensor: Shape (bs, T, C), each in [0, 1].
        """
        entry = index * self.num_classes + labels[:, :, None]
        # a cell has one object, so a sum adds nothing but zeros to its score
        targets = torch.zeros_like(logits).flatten(1)
        return targets.scatter_add_(1, entry.flatten(1), score.flatten(1)).view_as(logits)

    def box_losses(
        self, distributions: Tensor, points: Tensor, strides: Tensor, boxes: Tensor
    ) -> Tensor:
        """Weighted IoU loss of each pair.

        Args:
            distributions (Tensor): Logits, shape (P, 4 * R).
            points (Tensor): Centres (x, y) of the cells in pixels, shape (P, 2).
            strides (Tensor): Their strides in pixels, shape (P, 1).
            boxes (Tensor): Boxes of the objects in pixels, shape (P, 4), ordered (x1, y1, x2, y2).

        Returns:
            Tensor: Shape (P,).
        """
        predicted = distance2bbox(points, self.box_branch.integral(distributions) * strides)
        # NOTE no weight is passed: mmdet's IoU losses ask on the host whether any is above 0
        return self.loss_bbox(predicted, boxes, reduction_override='none')

    def distribution_losses(self, distributions: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
        """Weighted loss of each pair against the two bins next to each distance.

        Args:
            distributions (Tensor): Logits, shape (P, 4 * R).
            points (Tensor): Centres (x, y) of the cells in strides, shape (P, 2).
            boxes (Tensor): Boxes of the objects in strides, shape (P, 4), ordered (x1, y1, x2, y2).

        Returns:
            Tensor: Mean over the four sides, shape (P,).
        """
        reg_max = self.box_branch.reg_max
        # the right one of the two bins must exist
        distances = bbox2distance(points, boxes, max_dis=reg_max - 1, eps=0.01)
        losses = self.loss_dfl(
            distributions.view(-1, reg_max), distances.flatten(), reduction_override='none'
        )
        return losses.view(-1, 4).mean(-1)

    def predict_by_feat(
        self, cls_scores: List[Tensor], bbox_preds: List[Tensor], *args, **kwargs
    ) -> InstanceList:
        """Detections, from distances in pixels; see :class:`BaseDenseHead` for the arguments."""
        distances = [
            self.box_branch.integral(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * stride
            for logits, stride in zip(bbox_preds, self.strides)
        ]
        return super().predict_by_feat(cls_scores, distances, *args, **kwargs)

    def switch_to_deploy(self) -> None:
        """Fold the norms, in place."""
        fuse_all(self)


class PaddedObjects(NamedTuple):
    """The objects of a batch, as many slots for each image as the fullest one has objects.

    Attributes:
        labels (Tensor): Classes, shape (bs, M), long; 0 in empty slots.
        boxes (Tensor): Boxes in pixels, shape (bs, M, 4), ordered (x1, y1, x2, y2), float32; 0 in
            empty slots.
        valid (Tensor): Whether the slot has an object, shape (bs, M), bool.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor


def pad_objects(batch_gt_instances: InstanceList, device: torch.device) -> PaddedObjects:
    """Collect the objects of a batch; the instances are not changed.

    Args:
        batch_gt_instances (list[InstanceData]): ``bboxes`` in pixels as xyxy, and ``labels``.
        device (torch.device): Where they are needed.

    Returns:
        PaddedObjects: M is 0 when no image has an object.
    """
    labels = [instances.labels.long() for instances in batch_gt_instances]
    boxes = [get_box_tensor(x.bboxes).float().reshape(-1, 4) for x in batch_gt_instances]
    counts = torch.tensor([len(x) for x in labels]).to(device, non_blocking=True)
    labels = pad_sequence(labels, batch_first=True).to(device)
    boxes = pad_sequence(boxes, batch_first=True).to(device)
    valid = torch.arange(labels.shape[1], device=device) < counts[:, None]
    return PaddedObjects(labels, boxes, valid)
