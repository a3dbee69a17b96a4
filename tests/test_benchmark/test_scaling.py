# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from deim_mmdet.benchmark.losses_alone import made_up_inputs
from deim_mmdet.benchmark.scaling import STEPS, images_per_second, matching_times
from deim_mmdet.benchmark.training_step import StepOptions, build_model


def test_made_up_predictions_have_the_shapes_of_the_model(small_dfine):
    model = build_model(small_dfine, 'cpu')
    sets, targets, denoising_sets, denoising = made_up_inputs(model, 2, 30, 'cpu')
    assert sets.cls_scores.shape == (3 + 2, 2, 20, 7)  # layers, encoder and initial box
    assert sets.corners.shape == (3, 2, 20, 4 * 33)
    assert denoising_sets.bboxes.shape == (3 + 1, 2, 3 * 2 * 30, 4)  # 100 // 30 groups
    assert denoising.num_groups == 3
    assert targets.counts == [30, 30]
    losses = model.bbox_head.loss(sets, targets, denoising_sets, denoising)
    sum(losses.values()).backward()
    assert sets.corners.grad.any() and denoising_sets.cls_scores.grad.any()


def test_matching_times(small_dfine):
    model = build_model(small_dfine, 'cpu')
    small, large = matching_times(model, [(1, 2), (2, 30)], runs=2)
    assert small.entries == 5 * 1 * 2 * 20
    assert large.entries == 5 * 2 * 30 * 20
    assert set(small.seconds) == set(STEPS)
    assert all(seconds > 0 for times in (small, large) for seconds in times.seconds.values())


@pytest.mark.slow
def test_two_processes_train(small_dfine):
    options = StepOptions((96, 96), batch_size=2, objects=3)
    for processes in (1, 2):
        assert images_per_second(small_dfine, options, processes, steps=1) > 0
