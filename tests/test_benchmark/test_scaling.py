# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import time
from dataclasses import replace

import pytest
from scipy.optimize import linear_sum_assignment

from deim_mmdet.benchmark.losses_alone import made_up_inputs
from deim_mmdet.benchmark.scaling import (
    STEPS,
    Share,
    images_per_second,
    matching_times,
    train_together,
)
from deim_mmdet.benchmark.training_step import StepOptions, build_model
from deim_mmdet.models.task_modules import set_matcher


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


def test_matching_times(small_dfine, monkeypatch):
    def assign_slowly(cost):
        time.sleep(0.05)
        return linear_sum_assignment(cost)

    monkeypatch.setattr(set_matcher, 'linear_sum_assignment', assign_slowly)
    model = build_model(small_dfine, 'cpu')
    small, large = matching_times(model, [(1, 2), (2, 30)], runs=2)
    assert small.entries == 5 * 1 * 2 * 20
    assert large.entries == 5 * 2 * 30 * 20
    for times in (small, large):
        assert list(times.seconds) == list(STEPS)
        slept = 0.05 * 5 * times.batch_size  # for each set of each image
        assert times.seconds['assignment'] >= slept
        assert all(s < slept for step, s in times.seconds.items() if step != 'assignment')


def test_images_of_all_processes_until_the_last_one_is_done():
    shares = [Share(20, 1, 7, seconds=2.0), Share(20, 2, 7, seconds=2.5)]
    assert images_per_second(shares[:1]) == 10
    assert images_per_second(shares) == 16
    with pytest.raises(RuntimeError, match=r'ended with \[7, 8\]'):
        images_per_second([shares[0], replace(shares[1], weights_crc32=8)])


@pytest.mark.slow
def test_two_processes_train_together(small_dfine):
    """On images of their own, and end with the same weights, which are not those of one."""
    options = StepOptions((96, 96), batch_size=2, objects=3)
    first, second = train_together(small_dfine, options, processes=2, steps=3)
    assert first.images == second.images == 3 * 2
    assert first.images_crc32 != second.images_crc32
    assert first.weights_crc32 == second.weights_crc32
    (alone,) = train_together(small_dfine, options, processes=1, steps=3)
    assert alone.images_crc32 == first.images_crc32
    assert alone.weights_crc32 != first.weights_crc32
