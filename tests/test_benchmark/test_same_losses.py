# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What is timed beside transformers computes the same there."""

from dataclasses import replace

import pytest
import torch

from deim_mmdet.benchmark.losses_alone import made_up_inputs, time_losses
from deim_mmdet.benchmark.same_losses import same_losses, summary
from deim_mmdet.benchmark.training_step import StepOptions, build_step, median_of_phases, take_turns
from deim_mmdet.benchmark.transformers_peer import transformers_step

pytest.importorskip('transformers')
pytest.importorskip('safetensors')

OPTIONS = StepOptions((96, 128), batch_size=2, objects=5)


@pytest.fixture
def steps(small_config):
    ours = build_step(small_config, OPTIONS)
    return ours, transformers_step(small_config, ours)


def test_losses_agree_in_the_step_and_alone(steps):
    ours, theirs = steps
    pairs = same_losses(ours, theirs)
    layers = ours.model.decoder.num_layers
    if hasattr(ours.model.decoder, 'reg_max'):  # 3 terms of L + 1 sets and of L for denoising
        edges = 2 * (layers - 1) + 2 * layers
        assert len(pairs) == 3 * (2 * layers + 1) + edges
    else:
        assert len(pairs) == 3 * (layers + 1) + 3 * layers
    assert all(ours > 0 for name, (ours, _) in pairs.items() if 'ddf' not in name)
    assert f'{len(pairs)} loss terms agree to' in summary(pairs)

    terms, times = time_losses(ours.model, theirs.model, batch_size=2, objects=7, runs=1)
    assert set(terms) == set(pairs)
    assert all(seconds > 0 for pair in times.values() for seconds in pair)


def test_the_peer_trains(steps):
    ours, theirs = steps
    before = [p.detach().clone() for p in theirs.parameters]
    take_turns({'here': ours, 'there': theirs}, warmup=0, count=1)
    assert {'forward', 'losses', 'backward', 'optimiser', 'rest'} == set(theirs.clock.seconds)
    medians = median_of_phases(theirs)  # of one step: phases add up to it
    assert medians.pop('step') == pytest.approx(sum(medians.values()))
    assert any(not torch.equal(a, b) for a, b in zip(before, theirs.parameters))
    assert all(p.grad is None for p in theirs.parameters)
    settings = ours.optim_wrapper.optimizer.defaults
    assert theirs.optimizer.defaults['lr'] == settings['lr']
    assert theirs.clip == dict(max_norm=0.1, norm_type=2)


def test_other_losses_are_not_timed(steps):
    ours, theirs = steps
    theirs.model.config.weight_loss_giou = 2.1
    with pytest.raises(ValueError, match='losses differ.*loss_giou'):
        same_losses(ours, theirs)


def test_what_transformers_has_not(small_dfine):
    ours = build_step(small_dfine, OPTIONS)
    small_dfine.model.bbox_head.type = 'DEIMHead'
    with pytest.raises(ValueError, match='this config has DEIMHead'):
        transformers_step(small_dfine, ours)
    small_dfine.model.bbox_head.type = 'DFINEHead'
    small_dfine.model.decoder.act = small_dfine.model.query_selection.act = 'silu'
    with pytest.raises(ValueError, match='this one has the activations of DEIM'):
        transformers_step(small_dfine, ours)


def test_a_step_without_denoising_queries_is_not_compared(small_dfine):
    small_dfine.model.denoising = None
    ours = build_step(small_dfine, OPTIONS)
    with pytest.raises(ValueError, match='this config has model.denoising=None'):
        transformers_step(small_dfine, ours)
    with pytest.raises(ValueError, match='this model has denoising=None'):
        made_up_inputs(ours.model, 2, 3, 'cpu')


def test_precision_of_the_peer(small_dfine):
    """It is that of the step here; float16, which scales gradients, is not compared."""
    ours = build_step(small_dfine, replace(OPTIONS, amp=True))
    peer = transformers_step(small_dfine, ours)
    dtypes = []
    peer.model.model.encoder.register_forward_hook(
        lambda module, args, outputs: dtypes.append(outputs[0][0].dtype)
    )
    peer()
    assert peer.dtype == torch.bfloat16 and dtypes == [torch.bfloat16]
    ours.optim_wrapper.dtype = torch.float16
    with pytest.raises(ValueError, match='not in float16, which scales gradients'):
        transformers_step(small_dfine, ours)
