# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What denoising adds to mmdet's detectors, whatever the weights."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from deim_mmdet.models.dense_heads.denoising_head_mixin import DenoisingHeadMixin
from deim_mmdet.models.detectors import DNDETR, DenoisingMixin
from deim_mmdet.models.layers.dn_deformable_decoder import DNDeformableDecoder
from deim_mmdet.models.losses import MatchabilityAwareLoss
from deim_mmdet.models.task_modules import BatchTargets, Matches
from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy
from tests.test_models.samples import data_samples

BASES = Path(__file__).parents[2] / 'configs'
HW = (64, 96)
NUM_CLASSES = 10
MAL = dict(type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0)
# name: base config, detector, further settings
# fmt: off
PLUG_INS = {
    'dab': ('any_detr/_base_/dab-detr_r50', 'DNDETR', {}),
    'dab_patterns': ('any_detr/_base_/dab-detr_r50', 'DNDETR', dict(num_patterns=2)),
    'conditional': ('any_detr/_base_/conditional-detr_r50', 'DenoisingConditionalDETR', {}),
    'deformable': ('any_detr/_base_/deformable-detr_r50', 'DenoisingDeformableDETR', {}),
    'deformable_refine': (
        'any_detr/_base_/deformable-detr_r50', 'DenoisingDeformableDETR', dict(with_box_refine=True)
    ),
    'deformable_two_stage': (
        'any_detr/_base_/deformable-detr_r50', 'DenoisingDeformableDETR',
        dict(with_box_refine=True, as_two_stage=True),
    ),
    'dn_deformable': ('_base_/models/dn-deformable-detr_r50', 'DNDeformableDETR', {}),
}
# fmt: on


DENOISING = dict(type='DenoisingQueryGenerator')


def build(name, denoising=DENOISING, loss_cls=None, head=None, **kwargs):
    """A small detector without dropout, with weights that move every output."""
    path, detector, settings = PLUG_INS[name]
    cfg = Config.fromfile(BASES / f'{path}.py').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [channels // 4 for channels in cfg.neck.in_channels]
    cfg.encoder.num_layers, cfg.decoder.num_layers, cfg.num_queries = 1, 2, 20
    for part in (cfg.encoder, cfg.decoder):
        part.layer_cfg.ffn_cfg.feedforward_channels = 64
    cfg.update(type=detector, denoising=denoising, **settings)
    cfg.bbox_head.update(type=head or f'{detector}Head', num_classes=NUM_CLASSES)
    if loss_cls is not None:
        cfg.bbox_head.loss_cls = loss_cls
    cfg.update(test_cfg=dict(max_per_img=50), **kwargs)
    torch.manual_seed(0)
    with mock.patch('mmengine.model.base_module.BaseModule._dump_init_info'):
        model = MODELS.build(cfg)
        model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.train()


def images(seed=0):
    return torch.rand(2, 3, *HW, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module', params=PLUG_INS)
def model(request):
    return build(request.param)


# -- losses


@pytest.mark.parametrize('loss_cls', [None, MAL])
@pytest.mark.parametrize('name', PLUG_INS)
def test_keys_and_gradients_whatever_the_batch_holds(name, loss_cls):
    model = build(name, loss_cls=loss_cls)
    normal = {f'{layer}loss_{t}' for layer in ('', 'd0.') for t in ('cls', 'bbox', 'iou')}
    noisy = {key.replace('loss_', 'dn_loss_') for key in normal}
    encoder = {f'enc_loss_{t}' for t in ('cls', 'bbox', 'iou') if model_is_two_stage(model)}
    for counts in [(0, 0), (0, 3), (2, 3)]:
        model.zero_grad(set_to_none=True)
        losses = model.loss(images(), data_samples(counts, HW, NUM_CLASSES))
        assert set(losses) == normal | noisy | encoder
        assert all((losses[key] > 0) == (sum(counts) > 0) for key in noisy)
        total = sum(losses.values())
        assert total.isfinite()
        total.backward()
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        assert [n for n, p in trained if p.grad is None] == []


def model_is_two_stage(model):
    return getattr(model, 'as_two_stage', False)


def test_normal_losses_are_those_of_the_detector_alone(model):
    """Denoising queries take part in no loss, and in no match, of the normal ones."""
    model, samples = model.train(), data_samples((2, 3), HW, NUM_CLASSES)
    losses = model.loss(images(), samples)
    with normal_queries_alone(model):
        alone = model.loss(images(), samples)
    assert set(alone) == {key for key in losses if 'dn_' not in key}
    for key, value in alone.items():
        torch.testing.assert_close(value, losses[key], rtol=1e-4, atol=1e-6)


@contextmanager
def normal_queries_alone(model):
    """Trains without denoising queries, but with the contents that denoising gives."""
    base = next(c for c in type(model).__mro__ if c.__module__.startswith('mmdet.'))
    with mock.patch.object(type(model), 'forward_decoder', base.forward_decoder):
        yield


@pytest.mark.parametrize('name', ['dab', 'conditional', 'deformable', 'dn_deformable'])
def test_under_autocast(name):
    """The same keys, finite losses in float32 and gradients."""
    model, samples = build(name), data_samples((0, 2), HW, NUM_CLASSES)
    exact = model.loss(images(), samples)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(images(), samples)
    assert list(losses) == list(exact)
    noisy = [losses[key] for key in losses if 'dn_' in key]
    assert all(value.dtype == torch.float32 and value > 0 for value in noisy)
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


class Pairs(DenoisingHeadMixin):
    """The losses alone."""

    def __init__(self, loss_cls):
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(dict(type='L1Loss', loss_weight=5.0))
        self.loss_iou = MODELS.build(dict(type='GIoULoss', loss_weight=2.0))


def pairs_of_two_groups():
    """Layers, queries and pairs of one object in an image with two slots, and none in another."""
    logits = torch.zeros(1, 2, 4, 2)
    logits[0, 0, 0] = torch.tensor([2.0, -1.0])
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).repeat(1, 2, 4, 1)
    boxes[0, 0, 0] = torch.tensor([0.6, 0.5, 0.2, 0.2])  # half of it is beside the object
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    targets = BatchTargets.from_flat(torch.tensor([0]), box, [1, 0])
    matches = Matches(torch.zeros(2).long(), torch.tensor([0, 2]), torch.zeros(2).long())
    denoising = replace(mock_queries(), matches=matches)
    return logits, boxes, denoising, targets


def mock_queries():
    generator = MODELS.build(dict(type='DenoisingQueryGenerator', num_classes=2, embed_dims=4))
    return generator(BatchTargets.from_flat(torch.tensor([0]), torch.full((1, 4), 0.5), [1]), 3)


def test_losses_by_hand():
    """Two pairs, the slots without an object are in no loss."""
    focal = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
    terms = Pairs(focal).denoising_terms(*pairs_of_two_groups())
    # first pair: p = .880797, .268941; .25 * (1 - p)^2 * -log(p) and .75 * p^2 * -log(1 - p)
    first = 0.25 * 0.119203**2 * 0.126928 + 0.75 * 0.268941**2 * 0.313262
    # second pair: p = .5 twice
    second = (0.25 + 0.75) * 0.25 * 0.693147
    torch.testing.assert_close(terms['loss_cls'], torch.tensor([(first + second) / 2]))
    # the first box is .1 off
    torch.testing.assert_close(terms['loss_bbox'], torch.tensor([5 * 0.1 / 2]))
    # it shares .1 x .2 with the object, the union is the hull of .3 x .2: GIoU = IoU = 1 / 3
    torch.testing.assert_close(terms['loss_iou'], torch.tensor([2 * (2 / 3) / 2]))


@pytest.mark.parametrize('num_pairs', [0, 2])
def test_the_focal_loss_needs_no_operator_of_mmcv(num_pairs):
    """The one for indices of classes fails on CUDA where there is no pair."""
    logits, boxes, denoising, targets = pairs_of_two_groups()
    part = (index[:num_pairs] for index in (torch.zeros(2).long(), torch.tensor([0, 2])))
    matches = Matches(*part, torch.zeros(num_pairs).long())
    denoising = replace(denoising, matches=matches)
    focal = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
    expected = Pairs(focal).denoising_terms(logits, boxes, denoising, targets)
    logits.requires_grad_()
    with (
        mock.patch('torch.cuda.is_available', return_value=True),
        mock.patch.object(torch.Tensor, 'is_cuda', True),
        mock.patch('mmdet.models.losses.focal_loss.sigmoid_focal_loss', side_effect=MemoryError),
    ):
        with pytest.raises(MemoryError):  # what indices would call
            MODELS.build(focal)(logits[0, 0], torch.zeros(4).long())
        found = Pairs(focal).denoising_terms(logits, boxes, denoising, targets)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    (grad,) = torch.autograd.grad(found['loss_cls'].sum(), logits)
    assert (grad != 0).any() == (num_pairs > 0)


def test_matchability_aware_loss_takes_the_iou_of_the_known_pair():
    logits, boxes, denoising, targets = pairs_of_two_groups()
    (found,) = Pairs(MAL).denoising_terms(logits, boxes, denoising, targets)['loss_cls']
    matches = denoising.matches
    pairs = matches.gather(logits).unsqueeze(1)  # as queries of one image
    ious = aligned_iou(cxcywh_to_xyxy(matches.gather(boxes)), cxcywh_to_xyxy(targets.boxes))
    torch.testing.assert_close(ious, torch.tensor([[1 / 3, 1.0]]))
    as_set = Matches(torch.zeros(2).long(), torch.arange(2), matches.target_index)
    labels = targets.labels[matches.target_index]
    expected = MatchabilityAwareLoss(1.5).loss_per_set(pairs, as_set, labels, ious, 2.0)
    torch.testing.assert_close(found, expected[0])
    # p = .880797, target 3^-1.5 = .19245; p = .268941, weight p^1.5; p = .5, target 1, and p = .5
    by_hand = 0.126928 + (1 - 0.19245) * 2 + 0.268941**1.5 * 0.313262 + 0.693147 * (1 + 0.5**1.5)
    assert found.item() == pytest.approx(by_hand / 2, rel=1e-5)


# -- the decoder


@contextmanager
def changed_group(group, slots):
    """Within this context one group has other contents and boxes."""
    from deim_mmdet.models.task_modules.denoising_query_generator import DenoisingQueryGenerator

    forward = DenoisingQueryGenerator.forward

    def change(self, targets, num_queries, generator=None):
        queries = forward(self, targets, num_queries, torch.Generator().manual_seed(0))
        content, references = queries.content.clone(), queries.references.clone()
        noise = torch.Generator().manual_seed(group)
        part = slice(group * slots, (group + 1) * slots)
        if group >= 0:
            for tensor in (content, references):
                tensor[:, part] = torch.randn(tensor[:, part].shape, generator=noise)
        return replace(queries, content=content, references=references)

    with mock.patch.object(DenoisingQueryGenerator, 'forward', change):
        yield


def outputs_of(model, counts, group=-1):
    """Scores and boxes of all queries, after changing a group."""
    samples = data_samples(counts, HW, NUM_CLASSES)
    with (
        torch.no_grad(),
        changed_group(group, max(counts)),
        model.objects_known(samples, torch.device('cpu')),
    ):
        inputs = model.forward_transformer(model.extract_feat(images()), samples)
        return model.bbox_head(inputs['hidden_states'], inputs['references'])


def test_groups_do_not_see_each_other(model):
    """Changing what one group holds changes the predictions of that group alone."""
    model, counts = model.train(), (2, 3)
    before = outputs_of(model, counts)
    assert before[0].shape[2] == 5 * 3 + 20 * (getattr(model, 'num_patterns', 0) or 1)
    for group in (0, 2, 4):
        part = slice(group * 3, (group + 1) * 3)
        others = torch.ones(before[0].shape[2], dtype=torch.bool)
        others[part] = False
        for old, new in zip(before, outputs_of(model, counts, group)):
            assert torch.equal(old[:, :, others], new[:, :, others])
            assert (old[:, :, part] != new[:, :, part]).any(-1).all()


def test_denoising_queries_see_each_other_and_the_normal_ones(model):
    """Within a group, and from normal queries to denoising ones, attention is open."""
    model, counts = model.train(), (2, 2)
    samples = data_samples(counts, HW, NUM_CLASSES)
    contents = []
    decoder = model.decoder.forward

    def keep_content(*args, **kwargs):
        contents.append(kwargs['query'].detach().requires_grad_())
        return decoder(*args, **{**kwargs, 'query': contents[0]})

    with (
        mock.patch.object(model.decoder, 'forward', keep_content),
        model.objects_known(samples, torch.device('cpu')),
    ):
        inputs = model.forward_transformer(model.extract_feat(images()), samples)
    scores, _ = model.bbox_head(inputs['hidden_states'], inputs['references'])
    (grad,) = torch.autograd.grad(scores[-1, 0, 0].sum(), contents)
    sees = grad[0].abs().sum(-1) > 0
    expected = torch.ones(len(sees), dtype=torch.bool)
    expected[2:10] = False  # the other groups
    assert torch.equal(sees, expected)


def test_the_mask_is_gone_after_the_step(model):
    model.train()
    model.loss(images(), data_samples((1, 2), HW, NUM_CLASSES))
    assert not any(layer._forward_pre_hooks for layer in model.decoder.layers)
    with mock.patch.object(model.decoder, 'forward', side_effect=MemoryError):
        with pytest.raises(MemoryError):  # also when the step fails
            model.loss(images(), data_samples((1, 2), HW, NUM_CLASSES))
    assert not any(layer._forward_pre_hooks for layer in model.decoder.layers)


def test_no_denoising_queries_in_evaluation(model):
    model.eval()
    samples = data_samples((2, 3), HW, NUM_CLASSES)
    with mock.patch.object(model.denoising, 'forward', side_effect=AssertionError):
        with torch.no_grad():
            results = model.predict(images(), samples)
    assert all(len(result.pred_instances) > 0 for result in results)


def test_no_denoising_queries_beside_the_loss(model):
    """Outputs and detections in training mode are those of the normal queries, as in mmdet."""
    samples = data_samples((2, 3), HW, NUM_CLASSES)
    model.eval()
    with torch.no_grad():
        expected = model(images(), samples, mode='tensor')
        model.train()
        with mock.patch.object(model.backbone, 'training', False):
            for module in model.modules():  # statistics of the batch are not the subject
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
            found = model(images(), samples, mode='tensor')
            results = model(images(), samples, mode='predict')
    model.train()
    for old, new in zip(expected[:2], found[:2]):
        torch.testing.assert_close(old, new)
    assert all(len(result.pred_instances) > 0 for result in results)


def test_the_objects_are_forgotten_after_the_step(model):
    model.train()
    samples = data_samples((1, 2), HW, NUM_CLASSES)
    with mock.patch.object(model.decoder, 'forward', side_effect=MemoryError):
        with pytest.raises(MemoryError):
            model.loss(images(), samples)
    with mock.patch.object(model.denoising, 'forward', side_effect=AssertionError):
        model(images(), samples, mode='tensor')


# -- denoising=None


@pytest.mark.parametrize('name', [n for n in PLUG_INS if n != 'dn_deformable'])
def test_without_denoising_it_is_mmdets_detector(name):
    """The same keys, losses and predictions."""
    ours = build(name, denoising=None)
    path, _, settings = PLUG_INS[name]
    base = Config.fromfile(BASES / f'{path}.py').model
    with mock.patch.dict(PLUG_INS, {name: (path, base.type, settings)}):
        cls = MODELS.get(base.type)
        with mock.patch.object(cls, '__init__', without_argument(cls.__init__, 'denoising')):
            theirs = build(name, denoising=None, head=base.bbox_head.type)
    assert type(theirs) is cls and isinstance(ours, cls)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    samples = data_samples((2, 3), HW, NUM_CLASSES)
    losses, expected = ours.loss(images(), samples), theirs.loss(images(), samples)
    assert list(losses) == list(expected)
    assert all(torch.equal(losses[key], expected[key]) for key in expected)
    with torch.no_grad():
        found, wanted = (m.eval()._forward(images(), samples) for m in (ours, theirs))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))


@pytest.mark.parametrize('name', [n for n in PLUG_INS if n != 'dn_deformable'])
def test_weights_without_denoising_give_the_same_outputs(name):
    state = build(name, denoising=None).state_dict()
    model = build(name)
    missing, _ = model.load_state_dict(state, strict=False)
    assert all(key.startswith('denoising.') or 'position' in key for key in missing), missing
    without = build(name, denoising=None)
    without.load_state_dict(state)
    samples = data_samples((2, 3), HW, NUM_CLASSES)
    with torch.no_grad():
        found, wanted = (m.eval()._forward(images(), samples) for m in (model, without))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))


def without_argument(init, name):
    def call(self, *args, **kwargs):
        kwargs.pop(name, None)
        return init(self, *args, **kwargs)

    return call


def test_dn_deformable_without_denoising_has_the_same_network():
    with_denoising, without = build('dn_deformable'), build('dn_deformable', denoising=None)
    only = set(with_denoising.state_dict()) - set(without.state_dict())
    assert only == {'denoising.label_embedding.weight'}
    losses = without.loss(images(), data_samples((2, 3), HW, NUM_CLASSES))
    assert len(losses) == 6
    sum(losses.values()).backward()
    trained = [(n, p) for n, p in without.named_parameters() if p.requires_grad]
    assert [n for n, p in trained if p.grad is None] == []


# -- bad input


def test_a_head_without_denoising_losses_is_refused():
    with pytest.raises(ValueError, match='got DABDETRHead: set bbox_head.type=DNDETRHead'):
        build('dab', head='DABDETRHead')


@pytest.mark.parametrize(
    'wrong', [dict(with_box_refine=False), dict(with_box_refine=True, as_two_stage=True)]
)
def test_dn_deformable_has_one_form(wrong):
    with pytest.raises(ValueError, match='use DenoisingDeformableDETR for the other forms'):
        build('dn_deformable', **wrong)


@pytest.mark.parametrize('name', ['dab', 'conditional', 'deformable'])
def test_weights_with_denoising_in_a_model_without(name):
    """Refused where evaluation needs what denoising learnt."""
    state = build(name).state_dict()
    without = build(name, denoising=None)
    if name == 'deformable':
        assert 'denoising.label_embedding.weight' in without.load_state_dict(state, False)[1]
        return
    with pytest.raises(ValueError, match='Set model.denoising=dict'):
        without.load_state_dict(state, strict=False)


def test_dn_deformable_returns_the_outputs_of_all_layers():
    decoder = Config.fromfile(BASES / '_base_/models/dn-deformable-detr_r50.py').model.decoder
    decoder.return_intermediate = False
    with pytest.raises(ValueError, match='return_intermediate must be True, got False'):
        DNDeformableDecoder(**decoder)


def test_a_detector_that_does_not_say_how_it_denoises():
    model = build('dab')
    with mock.patch.object(DNDETR, 'denoising_inputs', DenoisingMixin.denoising_inputs):
        with pytest.raises(NotImplementedError, match='DNDETR must say .* write its method denois'):
            model.loss(images(), data_samples((1, 2), HW, NUM_CLASSES))


def test_logits_of_dn_deformables_boxes_are_bounded():
    """By 1e-3, in the decoder and in the head, as those of denoising queries are."""
    model = build('dn_deformable').eval()
    with torch.no_grad():
        for branch in model.bbox_head.reg_branches:
            branch[-1].weight.zero_()
            branch[-1].bias.zero_()
        # boxes of exactly 0 and 1
        model.query_embedding.weight[:10] = -200
        model.query_embedding.weight[10:] = 200
        _, boxes = model._forward(images(), data_samples((1, 2), HW, NUM_CLASSES))
    # log(1e-3 / 1) and its opposite; 1e-3 / 1.001 is bounded again by the second layer
    first = 1e-3 / 1.001
    second = 1e-3 / (1e-3 + 1 - first)
    for layer, bound in enumerate((first, second)):
        torch.testing.assert_close(boxes[layer, :, :10], torch.full((2, 10, 4), bound))
        torch.testing.assert_close(boxes[layer, :, 10:], torch.full((2, 10, 4), 1 - bound))
