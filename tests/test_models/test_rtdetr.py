# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What holds for the detectors whatever their weights: shapes, batches, empty images, checkpoints,
deploy form. RT-DETR and D-FINE share all of it; where nothing depends on the decoder, D-FINE alone
is tested.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from deim_mmdet.models.dense_heads.rtdetr_head import top_detections
from deim_mmdet.models.dense_heads.stacked_losses import mean_over_ranks
from deim_mmdet.models.layers import switch_to_deploy
from tests.test_models.parity import Case, training_with_fixed_norms
from tests.test_models.samples import data_samples

ROOT = Path(__file__).parents[2]


# config, strides, sets in training (encoder, D-FINE's initial box, three layers), loss terms
CONFIGS = {
    'deim/deim_dfine_hgnetv2-n_8xb16-160e_coco': ((16, 32), 5, 37),
    'rtdetrv2/rtdetrv2_r18vd_8xb2-120e_coco': ((8, 16, 32), 4, 21),
}
# fixture: its image selects tokens of distinct scores, which rounding does not reorder
SEEDED = ('deim_hgnetv2_n', 'deim_r18vd_120e')


def model_config(config: str):
    return Config.fromfile(ROOT / f'configs/{config}.py').model


@pytest.fixture
def model_cfg():
    return model_config('deim/deim_dfine_hgnetv2-n_8xb16-160e_coco')


@pytest.fixture
def model(model_cfg):
    torch.manual_seed(0)
    return MODELS.build(model_cfg)


@pytest.mark.parametrize(
    'hw', [(256, 256), (320, 576), (96, 64)]
)  # the last has fewer tokens than queries
@pytest.mark.parametrize('config', CONFIGS)
def test_any_input_size(config, hw):
    strides, num_sets, _ = CONFIGS[config]
    model = MODELS.build(model_config(config))
    num_queries = min(300, sum(hw[0] * hw[1] // stride**2 for stride in strides))
    images = torch.rand(2, 3, *hw)
    cls_scores, bboxes = model.train()(images, mode='tensor')
    assert cls_scores.shape == (num_sets, 2, num_queries, 80)
    assert bboxes.shape == (num_sets, 2, num_queries, 4)
    assert bboxes.min() >= 0
    sum(model.loss(images, data_samples((3, 0), hw)).values()).backward()

    with torch.no_grad():
        cls_scores, bboxes = model.eval()(images, mode='tensor')
    assert cls_scores.shape == (1, 2, num_queries, 80)
    results = model.predict(images, data_samples((3, 0), hw))
    for result in results:
        boxes = result.pred_instances.bboxes
        assert len(boxes) == 300
        assert (boxes >= 0).all()
        assert (boxes <= boxes.new_tensor([hw[1], hw[0], hw[1], hw[0]])).all()


@pytest.mark.parametrize('name', SEEDED)
def test_an_image_alone_or_in_a_batch_gives_the_same_result(name):
    case = Case(name)
    model, image = case.model.eval(), case.image
    batch = torch.cat([torch.rand_like(image), image, torch.rand_like(image)])
    with torch.no_grad():
        cls_scores, bboxes = model(image, mode='tensor')
        batch_scores, batch_boxes = model(batch, mode='tensor')
    torch.testing.assert_close(batch_scores[:, 1:2], cls_scores, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(batch_boxes[:, 1:2], bboxes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('config', CONFIGS)
def test_loss_keys_do_not_depend_on_the_batch_and_every_parameter_has_a_gradient(config):
    model = MODELS.build(model_config(config)).train()
    images = torch.rand(2, 3, 128, 128)
    keys = []
    for counts in [(0, 0), (0, 7), (5, 9)]:
        model.zero_grad()
        losses = model.loss(images, data_samples(counts, (128, 128)))
        keys.append(list(losses))
        total = sum(losses.values())
        assert torch.isfinite(total)
        total.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
    assert keys[0] == keys[1] == keys[2]
    assert len(keys[0]) == CONFIGS[config][2]


def test_without_denoising(model_cfg):
    model_cfg.denoising = None
    model = MODELS.build(model_cfg).train()
    losses = model.loss(torch.rand(1, 3, 128, 128), data_samples((4,), (128, 128)))
    assert len(losses) == 20
    assert not any('dn_' in key for key in losses)


def test_more_objects_than_queries(model_cfg):
    model_cfg.num_queries = 10
    model = MODELS.build(model_cfg).train()
    with pytest.warns(UserWarning, match='10 queries'):
        losses = model.loss(torch.rand(1, 3, 128, 128), data_samples((25,), (128, 128)))
    assert torch.isfinite(sum(losses.values()))


@pytest.mark.parametrize(
    'name, num_params', [('deim_hgnetv2_n', 3_753_799), ('deim_r18vd_120e', 19_979_152)]
)
@pytest.mark.parametrize('fold_all_norms', [False, True])
def test_deploy_form_is_the_published_one_and_equals_the_training_form(
    name, num_params, fold_all_norms
):
    case = Case(name)
    before = case.outputs()
    switch_to_deploy(case.model, fold_all_norms)
    after = case.outputs()
    num_folded = sum(p.numel() for p in case.model.parameters())
    assert num_folded < num_params if fold_all_norms else num_folded == num_params
    for key in ('pred_logits', 'pred_boxes'):
        np.testing.assert_allclose(after[key], before[key], rtol=1e-4, atol=1e-4, err_msg=key)


def test_positions_and_anchors_are_no_part_of_the_checkpoint(model):
    before = set(model.state_dict())
    with torch.no_grad():
        model.eval()(torch.rand(1, 3, 128, 192), mode='tensor')
    assert set(model.state_dict()) == before
    assert not any('anchor' in key or 'pos_embed' in key for key in before)


def test_checkpoint_of_another_size_is_refused(model, model_cfg):
    model_cfg.decoder.ffn_channels = 256
    other = MODELS.build(model_cfg)
    with pytest.raises(ValueError, match='another model size.*first decoder.layers.0.ffn.linear1'):
        model.load_state_dict(other.state_dict(), strict=False)


def test_checkpoint_of_another_class_count_is_refused(model, model_cfg):
    from mmengine.runner.checkpoint import load_state_dict

    model_cfg.bbox_head.num_classes = 10
    other = MODELS.build(model_cfg)
    with pytest.raises(ValueError, match='the checkpoint has 80 classes, the model 10: set num_cl'):
        load_state_dict(other, model.state_dict(), strict=False)


def test_backbone_weights_that_cannot_be_read_name_the_way_out(model_cfg):
    model_cfg.backbone.init_cfg = dict(type='Pretrained', checkpoint='no/such/file.pth')
    model = MODELS.build(model_cfg)
    with pytest.raises(OSError, match='no/such/file.pth.*set model.backbone.init_cfg=None'):
        model.init_weights()


def test_checkpoint_with_another_reg_scale_is_refused(model):
    state = model.state_dict()
    state['decoder.reg_scale'] = torch.tensor([8.0])
    with pytest.raises(ValueError, match='reg_scale=8, the config says 4'):
        model.load_state_dict(state)


def test_top_detections_equal_the_published_post_processing():
    golden = np.load(ROOT / 'tests/fixtures/postprocess.npz')
    scores, labels, bboxes = top_detections(
        torch.from_numpy(golden['pred_logits']),
        torch.from_numpy(golden['pred_boxes']),
        max_per_img=20,
    )
    sizes = torch.from_numpy(golden['orig_sizes_wh']).float().repeat(1, 2)[:, None]
    for i in range(2):
        np.testing.assert_allclose(scores[i], golden[f'scores_{i}'], rtol=1e-5)
        np.testing.assert_array_equal(labels[i], golden[f'labels_{i}'])
        np.testing.assert_allclose((bboxes * sizes)[i], golden[f'boxes_{i}'], rtol=1e-4, atol=1e-3)


def test_normalisers_are_at_least_one():
    assert mean_over_ranks([0, 14], torch.device('cpu')).tolist() == [1, 14]


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (dict(num_queries=0), 'num_queries must be at least 1, got 0'),
        (
            dict(bbox_head=dict(type='DEIMHead', num_classes=0)),
            'num_classes must be at least 1, got 0',
        ),
        (
            dict(decoder=dict(type='DFINEDecoder', embed_dims=100)),
            'multiple of num_heads, got 100 and 8',
        ),
    ],
)
def test_bad_arguments(model_cfg, change, match):
    with pytest.raises(ValueError, match=match):
        MODELS.build({**model_cfg, **change})


def test_gradient_of_one_image_is_that_of_a_batch_of_copies(model):
    """PyTorch's batch norm on the CPU is wrong for a single image with certain strides."""
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    model.train().double()
    gradients = []
    for copies in (1, 2):
        model.zero_grad()
        images = image.repeat(copies, 1, 1, 1)
        memory, _ = model.encode(images)
        (memory * torch.linspace(-1, 1, memory.shape[-1])).square().sum().div(copies).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert any(name.startswith('backbone.stem') for name in gradients[0])
    for name, gradient in gradients[0].items():
        # relative to the largest entry: the norms in a row amplify rounding
        scale = gradients[1][name].abs().max()
        assert (gradient - gradients[1][name]).abs().max() <= 1e-5 * scale + 1e-9, name


def test_mixed_precision_gives_finite_losses_near_those_of_single_precision(model):
    images, samples = torch.rand(2, 3, 96, 96), data_samples((3, 5), (96, 96))
    training_with_fixed_norms(model).denoising = None
    exact = model.loss(images, samples)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = model.loss(images, samples)
    assert list(mixed) == list(exact)
    assert all(loss.dtype == torch.float32 for loss in mixed.values())
    # other tokens may be selected, so only the sums are comparable
    torch.testing.assert_close(sum(mixed.values()), sum(exact.values()), rtol=0.05, atol=0)
    sum(mixed.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
