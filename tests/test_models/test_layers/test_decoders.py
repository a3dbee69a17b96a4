# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What the decoders of RT-DETR and D-FINE have in common, and what RT-DETR's alone does."""

import pytest
import torch
from mmdet.registry import MODELS

SHAPES = ((4, 6), (2, 3))
TINY = dict(
    num_classes=3,
    embed_dims=16,
    num_layers=3,
    num_heads=2,
    ffn_channels=8,
    points_per_level=(2, 1),
)
DECODERS = ('RTDETRDecoder', 'DFINEDecoder')


def build(name: str, **kwargs):
    """A tiny decoder whose every branch has an effect."""
    torch.manual_seed(0)
    return MODELS.build(dict(type=name, **{**TINY, **kwargs}))


def inputs(bs: int = 2, num_queries: int = 5):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(bs, num_queries, 16, generator=generator),
        torch.randn(bs, num_queries, 4, generator=generator),
        torch.randn(bs, 30, 16, generator=generator),
        SHAPES,
    )


@pytest.mark.parametrize('name', DECODERS)
@pytest.mark.parametrize('eval_layer', [0, 1, -1])
def test_evaluation_gives_the_set_that_training_supervises(name, eval_layer):
    decoder = build(name, eval_layer=eval_layer)
    trained = decoder.train()(*inputs())
    evaluated = decoder.eval()(*inputs())
    assert evaluated.bboxes.shape == (1, 2, 5, 4)
    # from the end: D-FINE has one more set in front
    index = eval_layer - 3 if eval_layer >= 0 else eval_layer
    torch.testing.assert_close(evaluated.cls_scores[0], trained.cls_scores[index])
    torch.testing.assert_close(evaluated.bboxes[0], trained.bboxes[index])


@pytest.mark.parametrize('name', DECODERS)
def test_layers_behind_the_evaluated_one_are_trained_yet_not_run_nor_deployed(name):
    decoder = build(name, eval_layer=1)
    decoder.train()(*inputs()).bboxes.sum().backward()
    assert decoder.layers[2].ffn.linear1.weight.grad is not None

    before = decoder.eval()(*inputs())
    for parameter in decoder.layers[2].parameters():
        parameter.data.fill_(float('nan'))
    decoder.switch_to_deploy()
    assert len(decoder.layers) == len(decoder.reg_branches) == 2
    after = decoder(*inputs())
    torch.testing.assert_close(after.cls_scores, before.cls_scores)
    torch.testing.assert_close(after.bboxes, before.bboxes)


def test_published_deploy_form_keeps_the_class_branches():
    """Its parameter count is the reference; they cost no time."""
    decoder = build('RTDETRDecoder')
    num_params = sum(p.numel() for p in decoder.parameters())
    decoder.switch_to_deploy()
    assert sum(p.numel() for p in decoder.parameters()) == num_params


def test_look_forward_twice():
    """The box of a layer trains the box branch before it, and no earlier one."""
    decoder = build('RTDETRDecoder').train()
    decoder(*inputs()).bboxes[2].sum().backward()
    gradients = [branch.layers[-1].bias.grad for branch in decoder.reg_branches]
    assert gradients[0].abs().sum() == 0
    assert gradients[1].abs().sum() > 0
    assert gradients[2].abs().sum() > 0


def test_first_boxes_are_the_references_moved_in_logit_space():
    decoder = build('RTDETRDecoder', num_layers=1).eval()
    decoder.reg_branches[0].zero_last_layer()
    content, references, *rest = inputs()
    torch.testing.assert_close(
        decoder(content, references, *rest).bboxes[0], references.sigmoid(), rtol=1e-5, atol=1e-6
    )
    decoder.reg_branches[0].layers[-1].bias.data.fill_(0.5)
    torch.testing.assert_close(
        decoder(content, references, *rest).bboxes[0], (references + 0.5).sigmoid()
    )


def test_infinite_references_give_finite_boxes_and_gradients():
    decoder = build('RTDETRDecoder').train()
    content, references, *rest = inputs()
    references[:, 0] = torch.inf  # an anchor outside the valid range
    bboxes = decoder(content, references, *rest).bboxes
    bboxes.sum().backward()
    assert torch.isfinite(bboxes).all()
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters() if p.grad is not None)


def test_discrete_sampling_freezes_the_offsets_and_nothing_else():
    decoder = build('RTDETRDecoder', sampling='discrete').train()
    sets = decoder(*inputs())
    (sets.bboxes.sum() + sets.cls_scores.sum()).backward()
    without = {name for name, p in decoder.named_parameters() if p.grad is None}
    offsets = {n for n, _ in decoder.named_parameters() if '.sampling_offsets.' in n}
    assert without == offsets
    assert len(offsets) == 2 * 3


def test_attention_mask_separates_queries():
    """What a query may not attend to does not change it."""
    decoder = build('RTDETRDecoder').eval()
    content, references, memory, shapes = inputs()
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[2:, :2] = True
    before = decoder(content, references, memory, shapes, mask).bboxes
    content[:, :2] += 1
    after = decoder(content, references, memory, shapes, mask).bboxes
    torch.testing.assert_close(after[:, :, 2:], before[:, :, 2:])
    assert not torch.allclose(after[:, :, :2], before[:, :, :2])


def test_query_positions_may_be_made_in_more_steps():
    decoder = build('RTDETRDecoder', query_pos_dims=(12, 20))
    shapes = [tuple(layer.weight.shape) for layer in decoder.query_pos_mlp.layers]
    assert shapes == [(12, 4), (20, 12), (16, 20)]


@pytest.mark.parametrize('name', DECODERS)
def test_initial_predictions(name):
    """Every class has probability 0.01 up to the features, and no layer moves its box."""
    decoder = build(name)
    decoder.init_weights()
    sets = decoder.eval()(*inputs())
    for branch in decoder.cls_branches:
        torch.testing.assert_close(branch.bias.sigmoid(), torch.full((3,), 0.01))
    torch.testing.assert_close(sets.bboxes[0], inputs()[1].sigmoid(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', DECODERS)
def test_initial_layers(name):
    """init_weights reaches the parts of every layer: points on rays, even weights, open gates."""
    decoder = build(name)
    decoder.init_weights()
    for layer in decoder.layers:
        attention = layer.cross_attn
        assert not attention.sampling_offsets.weight.any()
        assert not attention.attention_weights.weight.any()
        # (heads, points, 2): of two heads one looks right and one left, in steps of whole points
        offsets = attention.sampling_offsets.bias.view(2, -1, 2).round(decimals=4)
        assert (offsets[0, :, 0] >= 1).all() and (offsets[1, :, 0] <= -1).all()
        assert not offsets[..., 1].any()
    if name == 'DFINEDecoder':
        assert not any(layer.gateway.gate.weight.any() for layer in decoder.layers)
        assert not any(branch.mlp.layers[-1].weight.any() for branch in decoder.quality_branches)


@pytest.mark.parametrize(
    ('kwargs', 'match'),
    [
        (dict(embed_dims=15), 'multiple of num_heads, got 15 and 2'),
        (dict(sampling='nearest'), "one of .'bilinear', 'discrete'., got 'nearest'"),
        (dict(eval_layer=3), 'one of 3 layers, from -3 to 2, got 3'),
        (dict(eval_layer=-4), 'got -4'),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        build('RTDETRDecoder', **kwargs)
