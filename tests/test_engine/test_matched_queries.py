# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from mmdet.models.detectors import GroundingDINO
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from deim_mmdet.engine.matched_queries import check_has_queries, matched_queries
from deim_mmdet.ops.boxes import cxcywh_to_xyxy

CONFIGS = Path(__file__).parents[2] / 'configs'
HW = (64, 96)  # of the padded batch
IMAGE_HWS = [(64, 96), (40, 60)]  # the second image is padded
SMALL_RESNET = dict(
    depth=18, base_channels=8, stem_channels=8, frozen_stages=-1, init_cfg=None, norm_eval=True
)
# config, changes, whether its boxes are in units of the image without its padding
DETECTORS = {
    'DFINE': ('deim/deim_dfine_hgnetv2-atto_digits.py', {}, False),
    'DEYO': ('deyo/deyo_yolov8-atto_digits.py', {}, False),
    'DNDETR': ('dn_detr/dn-detr_r50_8xb2-50e_coco.py', {}, True),
    'DNDeformableDETR': ('dn_detr/dn-deformable-detr_hgnetv2-atto_digits.py', {}, True),
    'DABDETR': ('any_detr/deim_dab-detr_r50_digits.py', {}, True),
    'ConditionalDETR': ('any_detr/deim_conditional-detr_r50_digits.py', {}, True),
    'DeformableDETR': (
        'any_detr/deim_deformable-detr_r50_digits.py',
        dict(with_box_refine=True, as_two_stage=True),
        True,
    ),
    'DINO': ('any_detr/deim_dino-4scale_r50_digits.py', {}, True),
    'DDQDETR': ('any_detr/deim_ddq-detr-4scale_r50_digits.py', {}, True),
}


def build(name: str):
    config, changes, _ = DETECTORS[name]
    cfg = Config.fromfile(CONFIGS / config).model
    cfg.update(num_queries=20, **changes)
    if cfg.backbone.type == 'ResNet' and cfg.backbone.depth == 50:
        cfg.backbone.update(SMALL_RESNET)
        out = cfg.neck.in_channels
        cfg.neck.in_channels = [64] if len(out) == 1 else [16, 32, 64]
        cfg.encoder.num_layers, cfg.decoder.num_layers = 1, 2
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    with torch.no_grad():  # zeros at the start make the boxes of some detectors the same
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def samples_of(model, objects) -> list:
    """Data samples with the objects [(label, box in pixels of the input)] of each image."""
    samples = []
    for image_hw, of_image in zip(IMAGE_HWS, objects):
        meta = dict(img_shape=image_hw, ori_shape=image_hw, scale_factor=(1.0, 1.0))
        sample = DetDataSample(metainfo=dict(meta, batch_input_shape=HW))
        sample.gt_instances = InstanceData(
            labels=torch.tensor([label for label, _ in of_image], dtype=torch.long),
            bboxes=torch.stack([box for _, box in of_image]) if of_image else torch.zeros(0, 4),
        )
        samples.append(sample)
    return samples


def first_tokens(model, inputs, samples, monkeypatch):
    """What the model selects, as it selects it; None if its queries are learnt."""
    found = []
    if hasattr(model, 'query_selection'):
        hook = model.query_selection.register_forward_hook(
            lambda module, args, selected: found.append(selected.index)
        )
        model._forward(inputs)
        hook.remove()
        return found[0]
    if not getattr(model, 'as_two_stage', False):
        return None
    if type(model).__name__ == 'DDQDETR':
        from mmdet.models.detectors import ddq_detr

        original = ddq_detr.batched_nms

        def nms(*args, **kwargs):
            boxes, keep = original(*args, **kwargs)
            found.append(keep[: model.num_queries])
            return boxes, keep

        monkeypatch.setattr(ddq_detr, 'batched_nms', nms)
        model._forward(inputs, samples)
        return found
    original = torch.topk

    def topk(*args, **kwargs):
        values, index = original(*args, **kwargs)
        found.append(index)
        return values, index

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'topk', topk)
        model._forward(inputs, samples)
    (tokens,) = found
    return tokens


@pytest.mark.parametrize('name', DETECTORS)
def test_an_object_is_matched_with_the_query_that_finds_it(name, monkeypatch):
    """Three queries are taken, and their boxes made the objects: the matching gives them back. The
    second image has no object, or padding that counts in some detectors and not in others.
    """
    model = build(name)
    torch.manual_seed(1)
    inputs = torch.randn(2, 3, *HW)
    _, _, in_image_units = DETECTORS[name]
    with torch.no_grad():
        cls_scores, bboxes = model._forward(inputs, samples_of(model, [[], []]))
        tokens = first_tokens(model, inputs, samples_of(model, [[], []]), monkeypatch)
    queries = [5, 2, 11]

    def objects_of(image):
        height, width = IMAGE_HWS[image] if in_image_units else HW
        pixels = torch.tensor([width, height, width, height])
        boxes = cxcywh_to_xyxy(bboxes[-1][image, queries]) * pixels
        return list(zip(cls_scores[-1][image, queries].argmax(-1).tolist(), boxes))

    expected = [
        torch.tensor(queries) if tokens is None else tokens[i][queries].cpu() for i in range(2)
    ]
    found = matched_queries(model, inputs, samples_of(model, [objects_of(0), objects_of(1)]))
    assert [queries.tolist() for queries in found] == [e.tolist() for e in expected]

    found = matched_queries(model, inputs, samples_of(model, [[], objects_of(1)]))
    assert [queries.tolist() for queries in found] == [[], expected[1].tolist()]
    assert all(queries.dtype == torch.long for queries in found)


@pytest.mark.parametrize('name', ['DFINE', 'DNDETR'])
@pytest.mark.filterwarnings('ignore:an image has 23 objects')
def test_more_objects_than_queries(name):
    """The surplus has none; nothing else is matched twice."""
    model = build(name)
    boxes = torch.tensor([[4.0, 4, 20, 20]]) + torch.arange(23.0)[:, None]
    samples = samples_of(model, [[(0, box) for box in boxes], []])
    surplus, none = matched_queries(model, torch.randn(2, 3, *HW), samples)
    assert len(none) == 0
    assert (surplus == -1).sum() == 3
    assert len(surplus[surplus >= 0].unique()) == 20


def test_detectors_without_queries():
    model = MODELS.build(Config.fromfile(CONFIGS / 'yolov8/yolov8_atto_digits.py').model)
    with pytest.raises(TypeError, match='Got YOLOv8; remove MatchingStabilityHook'):
        check_has_queries(model)


def test_detectors_that_read_their_classes_from_text():
    detector = GroundingDINO.__new__(GroundingDINO)  # without its language model, a download
    torch.nn.Module.__init__(detector)
    detector.language_model, detector.bbox_head = torch.nn.Identity(), torch.nn.Identity()
    detector.bbox_head.assigner = None
    with pytest.raises(TypeError, match='GroundingDINO scores the words of a text; remove'):
        check_has_queries(detector)
