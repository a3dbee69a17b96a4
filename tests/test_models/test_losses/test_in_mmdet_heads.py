# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""MAL as ``loss_cls`` of the DETR-like detectors that mmdet ships."""

import warnings
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.models.dense_heads import DDQDETRHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from deim_mmdet.models.dense_heads.quality_ddq_detr_head import dense_quality
from deim_mmdet.models.losses import MatchabilityAwareLoss
from deim_mmdet.models.task_modules import BatchTargets, SetMatcher
from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
DETECTORS = {
    'DINOHead': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'DeformableDETRHead': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'ConditionalDETRHead': 'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'DABDETRHead': 'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'DETRHead': 'detr/detr_r50_8xb2-150e_coco.py',
    'QualityDDQDETRHead': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
}
NUM_CLASSES = 7
SIZE = 64
FOCAL_COSTS = [
    dict(type='FocalLossCost', weight=2.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]


def small_detector(head):
    """mmdet's config with one encoder and two decoder layers on a ResNet-18."""
    model = Config.fromfile(CONFIGS / DETECTORS[head]).model
    model.backbone.update(depth=18, init_cfg=None)
    model.neck.in_channels = [c // 4 for c in model.neck.in_channels]
    model.encoder.num_layers, model.decoder.num_layers, model.num_queries = 1, 2, 20
    model.bbox_head.update(type=head, num_classes=NUM_CLASSES)
    model.bbox_head.loss_cls = dict(type='MatchabilityAwareLoss')  # update() would merge
    model.train_cfg.assigner.match_costs = FOCAL_COSTS
    torch.manual_seed(0)
    detector = MODELS.build(model).train()
    detector.init_weights()
    return detector


def samples_of(*boxes_of_images):
    samples = []
    for boxes in boxes_of_images:
        boxes = torch.tensor(boxes).float().reshape(-1, 4)
        labels = torch.arange(len(boxes)) % NUM_CLASSES
        sample = DetDataSample(
            gt_instances=InstanceData(bboxes=boxes, labels=labels),
            metainfo=dict(
                img_shape=(SIZE, SIZE), batch_input_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE)
            ),
        )
        samples.append(sample)
    return samples


BOXES = [[8, 8, 40, 30], [20, 25, 60, 60], [2, 30, 20, 50]]


@pytest.mark.parametrize('head', DETECTORS)
def test_trains(head):
    detector = small_detector(head)
    with warnings.catch_warnings():
        # every IoU that a match has arrives at the loss
        warnings.filterwarnings('error', message='.*labels without IoUs')
        losses = detector.loss(torch.randn(2, 3, SIZE, SIZE), samples_of(BOXES[:2], BOXES))
    total, log = detector.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    names = [k for k in log if k.endswith('loss_cls')]
    assert len(names) >= 2 and all(log[k] > 0 for k in names)
    cls_grads = [p.grad for n, p in detector.bbox_head.named_parameters() if 'cls' in n]
    assert any(g is not None and g.abs().sum() > 0 for g in cls_grads)


@pytest.mark.parametrize('head', ['DINOHead', 'DETRHead'])
def test_a_batch_without_objects(head):
    detector = small_detector(head)
    losses = detector.loss(torch.randn(2, 3, SIZE, SIZE), samples_of([], []))
    total, _ = detector.parse_losses(losses)
    total.backward()
    assert total.isfinite()


def test_plain_ddq_head_is_told_of():
    """It hands over labels alone, so the loss says what to use instead."""
    detector = small_detector('QualityDDQDETRHead')
    detector.bbox_head.__class__ = DDQDETRHead
    with pytest.warns(UserWarning, match="type='QualityDDQDETRHead'"):
        detector.loss(torch.randn(1, 3, SIZE, SIZE), samples_of(BOXES))


@pytest.mark.parametrize('loss_weight', [1.0, 2.0])
@pytest.mark.parametrize('boxes', [(BOXES, BOXES[1:]), (BOXES, []), ([], [])])
def test_same_value_as_on_stacked_sets(boxes, loss_weight):
    """mmdet's head matches and normalises by itself: the same pairs, the same loss."""
    head = MODELS.build(
        dict(
            type='DETRHead',
            num_classes=NUM_CLASSES,
            embed_dims=16,
            loss_cls=dict(type='MatchabilityAwareLoss', loss_weight=loss_weight),
            train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=FOCAL_COSTS)),
        )
    )
    assert head.cls_out_channels == NUM_CLASSES  # one sigmoid per class, no background class
    torch.manual_seed(0)
    cls_scores = torch.randn(2, 10, NUM_CLASSES)
    bboxes = torch.rand(2, 10, 4) * 0.4 + 0.2
    samples = samples_of(*boxes)
    found, _, _ = head.loss_by_feat_single(
        cls_scores, bboxes, [x.gt_instances for x in samples], [x.metainfo for x in samples]
    )

    targets = BatchTargets.from_data_samples(
        samples, samples[0].batch_input_shape, torch.device('cpu')
    )
    matches = SetMatcher()(cls_scores[None], bboxes[None], targets)
    ious = aligned_iou(
        cxcywh_to_xyxy(matches.gather(bboxes[None])),
        cxcywh_to_xyxy(targets.boxes[matches.target_index]),
    )
    expected = MatchabilityAwareLoss(loss_weight=loss_weight).loss_per_set(
        cls_scores[None],
        matches,
        targets.labels[matches.target_index],
        ious,
        max(sum(targets.counts), 1),
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_quality_ddq_head_hands_over_ious():
    # the second query shares 1/7 with its object, the third is background, the last misses
    bboxes = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]])
    targets = torch.tensor([[1.0, 1, 2, 2], [2, 2, 2, 2], [0, 0, 0, 0], [9, 9, 2, 2]])
    found = dense_quality(torch.tensor([0, 1, 2, 1]), bboxes, targets, num_classes=2)
    expected = torch.tensor([[1, 0], [0, 1 / 7], [0, 0], [0, 0]])
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-6)
    assert found[3, 1] > 0 and found[2].sum() == 0
