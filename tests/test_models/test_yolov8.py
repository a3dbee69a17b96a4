# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""YOLOv8: against the published implementation, and what holds whatever the weights."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch.utils._python_dispatch import TorchDispatchMode

from deim_mmdet.convert import convert_state_dict, revert_state_dict
from deim_mmdet.convert.class_rows import fit_class_rows
from deim_mmdet.models.layers.conv import switch_to_deploy
from deim_mmdet.models.layers.dfl_box_branch import DFLBoxBranch
from deim_mmdet.ops.boxes import xyxy_to_cxcywh
from tests.fixtures import fill
from tests.test_models.samples import data_samples

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / 'tests/fixtures'
CONFIG = Config.fromfile(ROOT / 'configs/_base_/models/yolov8_n.py').model
# size: channels of the levels, blocks in the neck, published number of parameters
SIZES = {
    'n': ((64, 128, 256), 1, 3_157_200),
    's': ((128, 256, 512), 1, 11_166_560),
    'm': ((192, 384, 576), 2, 25_902_640),
    'l': ((256, 512, 512), 3, 43_691_520),
    'x': ((320, 640, 640), 3, 68_229_648),
}


def build(**head):
    """A small model: YOLOv8 at a quarter of the width of n."""
    torch.manual_seed(0)
    cfg = copy.deepcopy(CONFIG)
    cfg.backbone.size = (0.33, 0.0625, 1024)
    cfg.neck.in_channels = cfg.bbox_head.in_channels = (16, 32, 64)
    cfg.bbox_head.update(dict(num_classes=80, cls_channels=16), **head)
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def published():
    weights = fill.state_dict_from_tsv(FIXTURES / 'yolov8n.tsv')
    return {key: torch.from_numpy(value) for key, value in weights.items()}


# -- against the published implementation


def test_raw_outputs_and_boxes():
    golden = np.load(FIXTURES / 'yolov8n.npz')
    weights = published()
    numbers = {key: value.numpy() for key, value in weights.items()}
    assert np.isclose(fill.weight_sum(numbers), golden['weight_sum'], rtol=1e-6)
    model = MODELS.build(CONFIG).eval()
    model.load_state_dict(weights, strict=False)  # converted as they are loaded
    size = int(golden['size'])
    image = torch.from_numpy(fill.image(size, size, int(golden['image_seed'])))
    with torch.no_grad():
        cls_scores, bbox_preds = model(image, mode='tensor')
        boxes = xyxy_to_cxcywh(model.bbox_head.box_branch.decode(bbox_preds))
    for level, name in enumerate(('p3', 'p4', 'p5')):
        np.testing.assert_allclose(cls_scores[level][0], golden[f'cls_{name}'], rtol=0, atol=1e-4)
        np.testing.assert_allclose(bbox_preds[level][0], golden[f'dfl_{name}'], rtol=0, atol=1e-4)
    # in pixels, of distances that are good to 1e-5 of a stride of 32
    np.testing.assert_allclose(boxes[0], golden['boxes'], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('size', SIZES)
def test_every_size(size):
    channels, num_blocks, num_params = SIZES[size]
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='YOLOv8Backbone', size=size))
        neck = MODELS.build(dict(type='YOLOv8PAFPN', in_channels=channels, num_blocks=num_blocks))
        head = MODELS.build(dict(type='YOLOv8Head', num_classes=80, in_channels=channels))
        levels = neck(backbone(torch.empty(1, 3, 128, 64)))
    model = torch.nn.ModuleDict(dict(backbone=backbone, neck=neck, bbox_head=head))
    assert sum(p.numel() for p in model.parameters()) == num_params
    assert backbone.out_channels == neck.out_channels == channels
    assert [tuple(level.shape[1:]) for level in levels] == [
        (c, 128 // stride, 64 // stride) for c, stride in zip(channels, backbone.out_strides)
    ]


def test_names_there_and_back():
    rows = fill.read_tsv(FIXTURES / 'yolov8n.tsv')
    weights = {key: torch.zeros(shape) for key, shape, _ in rows}
    model = MODELS.build(CONFIG)
    converted, report = convert_state_dict(weights, model.state_dict())
    assert report.fits and not report.dropped
    assert list(converted) == [report.mapped[key] for key in weights]
    back, family = revert_state_dict(converted)
    assert family.name == 'YOLOv8'
    assert {key: value.shape for key, value in back.items()} == {k: s for k, s, _ in rows}


# -- whatever the weights


def test_distances_are_means_of_bins():
    """Bins 0 and 1 alike: half a stride; one bin alone: that many strides."""
    branch = DFLBoxBranch((16,), strides=(8,), reg_max=4)
    logits = torch.full((1, 4, 4, 1, 2), -100.0)  # (bs, side, bin, H, W)
    logits[0, :, 0] = logits[0, :, 1] = 3.0
    logits[0, 0, :, 0, 1] = torch.tensor([-100.0, -100.0, -100.0, 5.0])
    boxes = branch.decode([logits.flatten(1, 2)])
    expected = [[4 - 4, 4 - 4, 4 + 4, 4 + 4], [12 - 24, 4 - 4, 12 + 4, 4 + 4]]
    torch.testing.assert_close(boxes, torch.tensor([expected], dtype=torch.float32))


def head_alone(num_classes=3):
    head = dict(type='YOLOv8Head', num_classes=num_classes, in_channels=(16,), strides=(8,))
    return MODELS.build(dict(head, reg_max=4))


def test_losses_by_hand():
    """One object of 16 x 8 pixels over two cells of 8 x 8, three classes, four bins.

    Both cells predict it but for the first's right edge: 1.5 strides by bins 1 and 2 in equal
    parts, as is true. The second predicts its left edge, 1.5 strides, as 2.5 by bins 2 and 3:
    the box is 24 x 8, IoU 2/3, centres 4 apart, hull 24 x 8.

    Class scores are 1/2 everywhere: alignments 1 and (2/3)^6 = .0878, both times sqrt(.5); the
    targets are 1 and .0878 and sum to 1.0878. BCE at 1/2 is log 2 whatever the target: 6 log 2 / N.
    CIoU of the second: 2/3 - 16 / 640 - a v, v = 4/pi^2 (atan 3 - atan 2)^2, a = v / (1/3 + v).
    DFL: log 2 of one side, 0 of three, for the first, mean log 2 / 4. The second's left edge has
    half of its target on bin 2, which got 1/2, and half on bin 1, which got exp(-100): 50 + log 2.
    """
    head = head_alone()
    logits = torch.full((1, 4, 4, 1, 2), -100.0)  # (bs, side, bin, H, W)
    # left, top, right, bottom in strides: (.5, .5, 1.5, .5) and (1.5, .5, .5, .5)
    logits[0, :, 0] = logits[0, :, 1] = 0.0
    logits[0, 2, :, 0, 0] = torch.tensor([-100.0, 0.0, 0.0, -100.0])
    logits[0, 0, :, 0, 1] = torch.tensor([-100.0, -100.0, 0.0, 0.0])
    objects = [InstanceData(bboxes=torch.tensor([[0.0, 0.0, 16.0, 8.0]]), labels=torch.tensor([1]))]
    losses = head.loss_by_feat([torch.zeros(1, 3, 1, 2)], [logits.flatten(1, 2)], objects)

    second = (2 / 3) ** 6
    total = 1 + second
    log2 = np.log(2)
    v = 4 / np.pi**2 * (np.arctan(3) - np.arctan(2)) ** 2
    ciou = 2 / 3 - 16 / 640 - v * v / (1 / 3 + v)
    # every other side has half of its target on each of two bins that got 1/2: log 2
    dfl = (log2 + second * (3 * log2 + 50 + log2) / 4) / total
    assert losses['loss_cls'].item() == pytest.approx(0.5 * 6 * log2 / total, rel=1e-5)
    assert losses['loss_bbox'].item() == pytest.approx(7.5 * second * (1 - ciou) / total, rel=1e-5)
    assert losses['loss_dfl'].item() == pytest.approx(1.5 * dfl, rel=1e-5)


def test_soft_targets():
    head = head_alone()
    targets = head.soft_targets(
        torch.zeros(2, 4, 3),
        labels=torch.tensor([[2, 0], [1, 0]]),
        index=torch.tensor([[[3, 0], [1, 3]], [[2, 1], [0, 1]]]),
        score=torch.tensor([[[0.5, 0.0], [0.25, 0.0]], [[1.0, 0.75], [0.0, 0.0]]]),
    )
    expected = torch.zeros(2, 4, 3)
    expected[0, 3, 2], expected[0, 1, 0] = 0.5, 0.25
    expected[1, 2, 1], expected[1, 1, 1] = 1.0, 0.75
    torch.testing.assert_close(targets, expected)


@pytest.mark.parametrize('hw', [(128, 128), (96, 160), (32, 64)])
def test_any_input_size_and_any_number_of_objects(hw):
    model = build().train()
    images = torch.rand(2, 3, *hw)
    keys = []
    for counts in [(0, 0), (0, 7), (3, 5)]:
        model.zero_grad()
        losses = model.loss(images, data_samples(counts, hw))
        keys.append(list(losses))
        assert all(loss.ndim == 0 for loss in losses.values())
        total = sum(losses.values())
        assert torch.isfinite(total)
        if counts == (0, 0):
            assert losses['loss_bbox'] == losses['loss_dfl'] == 0
        total.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
    assert keys == [['loss_cls', 'loss_bbox', 'loss_dfl']] * 3

    results = model.eval().predict(images, data_samples((0, 0), hw))
    for result in results:
        boxes = result.pred_instances.bboxes
        assert len(boxes) <= 300
        assert (boxes >= 0).all()
        assert (boxes <= boxes.new_tensor([hw[1], hw[0], hw[1], hw[0]])).all()


class NothingToTheHost(TorchDispatchMode):
    """Fails at what would wait for a GPU: reading a value, or a shape that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ('_local_scalar_dense', 'nonzero', 'masked_select', 'unique'), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('counts', [(0, 0), (3, 5)])
def test_losses_need_nothing_on_the_host(counts):
    model = build().train()
    outputs = model(torch.rand(2, 3, 64, 64), mode='tensor')
    objects = [sample.gt_instances for sample in data_samples(counts, (64, 64))]
    with NothingToTheHost():
        model.bbox_head.loss_by_feat(*outputs, objects)


def test_an_image_alone_or_in_a_batch_gives_the_same_result():
    model = build().eval()
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        batch, alone = (model.bbox_head(model.extract_feat(x)) for x in (images, images[1:2]))
    for several, one in zip(batch[0] + batch[1], alone[0] + alone[1]):
        torch.testing.assert_close(several[1:2], one, rtol=1e-5, atol=1e-5)


def test_suppression_is_by_class():
    """Two cells predict one box, best for class 0; of it one is left for each class."""
    head = head_alone(2)
    head.test_cfg = Config(CONFIG.test_cfg.to_dict())
    logits = torch.zeros(1, 4, 4, 1, 2)
    for side, cell, distance in [(0, 0, 0), (2, 0, 1), (0, 1, 1), (2, 1, 0)]:
        logits[0, side, distance, 0, cell] = 50.0
    scores = torch.tensor([[[[2.0, 3.0]], [[1.0, -20.0]]]])
    metas = [dict(img_shape=(8, 16))]
    (result,) = head.predict_by_feat([scores], [logits.flatten(1, 2)], batch_img_metas=metas)
    assert result.labels.tolist() == [0, 1]
    torch.testing.assert_close(result.scores, torch.tensor([3.0, 1.0]).sigmoid())
    torch.testing.assert_close(result.bboxes[:, 0::2], torch.tensor([[4.0, 12.0]] * 2))


def test_deploy_form_equals_the_training_form():
    model = MODELS.build(CONFIG).eval()
    model.load_state_dict(published(), strict=False)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = model(images, mode='tensor')
        switch_to_deploy(model, fold_all_norms=True)
        after = model(images, mode='tensor')
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    for mine, expected in zip(after[0] + after[1], before[0] + before[1]):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_scores_of_a_level_begin_small():
    """At 640 x 640 they add up to 10, but for what the random features add."""
    head = build().bbox_head
    for branch, stride in zip(head.cls_branches, head.strides):
        total = branch.bias.sigmoid().sum() * (640 / stride) ** 2
        assert total.item() == pytest.approx(10, rel=1e-3)
    assert all((branch.bias == 1).all() for branch in head.box_branch.branches)


def test_weights_of_another_size_are_refused():
    with pytest.raises(ValueError, match='another model size.*yolov8_n'):
        build().load_state_dict(MODELS.build(CONFIG).state_dict(), strict=False)


def test_weights_of_another_class_count_load_but_for_the_classes():
    from mmengine.runner.checkpoint import load_state_dict

    model, other = build(), build(num_classes=10)
    with torch.no_grad():
        model.bbox_head.cls_convs[0][0].conv.weight.fill_(0.5)
    load_state_dict(other, model.state_dict(), strict=False)
    assert other.bbox_head.cls_convs[0][0].conv.weight.eq(0.5).all()
    assert len(other.bbox_head.cls_branches[0].bias) == 10


def test_class_rows_find_their_names():
    weights, _ = convert_state_dict(published())
    model = build(num_classes=2, in_channels=(64, 128, 256), cls_channels=80)
    fitted = fit_class_rows(dict(state_dict=weights), model.state_dict(), ('dog', 'person'))
    for level in range(3):
        name = f'bbox_head.cls_branches.{level}.weight'
        torch.testing.assert_close(fitted.state[name], weights[name][[16, 0]])  # COCO's


@pytest.mark.parametrize(
    'cfg, match',
    [
        (dict(type='YOLOv8Head', num_classes=0, in_channels=(8, 8, 8)), 'num_classes must be'),
        (dict(type='YOLOv8Head', num_classes=1, in_channels=(8, 8)), 'name the same levels'),
        (dict(type='YOLOv8Backbone', size='nano'), "no size 'nano': take one of n, s, m, l, x"),
        (dict(type='YOLOv8Backbone', size=(1, 2)), 'three numbers'),
    ],
)
def test_wrong_settings(cfg, match):
    with pytest.raises(ValueError, match=match):
        MODELS.build(cfg)


def test_levels_that_do_not_fit_are_refused():
    neck = MODELS.build(dict(type='YOLOv8PAFPN', in_channels=(4, 6, 8)))
    levels = [torch.zeros(1, c, s, s) for c, s in ((4, 8), (6, 4), (8, 2))]
    assert [level.shape for level in neck(levels)] == [level.shape for level in levels]
    with pytest.raises(ValueError, match=r'levels of \(4, 6, 8\) channels and got \(6, 4, 8\)'):
        neck([levels[1], levels[0], levels[2]])
