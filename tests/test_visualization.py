# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np

from deim_mmdet.benchmark.convergence_curves import Epoch, RunName, summarize
from deim_mmdet.visualization import (
    compare_with_truth,
    draw_boxes,
    plot_ap_curve,
    plot_convergence,
    plot_matching_stability,
)

CLASSES, PALETTE = ('cat', 'dog'), [(255, 0, 0), (0, 255, 0)]  # RGB


def test_boxes_are_drawn_where_they_are_in_their_colour():
    image = np.zeros((50, 80, 3), np.uint8)
    picture = draw_boxes(image, [[10, 20, 30, 40]], [0], CLASSES, PALETTE, side=200)
    assert picture.shape == (200, 320, 3)  # enlarged four times
    red = picture[..., 2] > 200
    # The middle of each side, and the middle of the box, which stays free.
    assert red[80, 80] and red[160, 80] and red[120, 40] and red[120, 120]
    assert not red[120, 80]
    assert not (picture[..., 0] > 200).any() or (picture[..., :2] > 200).any()  # text may be white
    assert image.max() == 0  # the image itself is left alone


def test_large_images_are_not_enlarged_and_labels_stay_inside():
    image = np.full((600, 700, 3), 128, np.uint8)
    boxes = [[0, 0, 40, 40], [690, 590, 700, 600]]
    picture = draw_boxes(image, boxes, [0, 1], CLASSES, PALETTE, scores=[0.5, 0.75], side=560)
    assert picture.shape == image.shape
    assert (picture[:30, :60] != 128).any() and (picture[560:, 640:] != 128).any()


def test_the_surest_box_is_on_top():
    image, box = np.zeros((50, 80, 3), np.uint8), [10, 20, 30, 40]
    for labels, scores in (([0, 1], [0.5, 0.75]), ([1, 0], [0.75, 0.5])):
        both = draw_boxes(image, [box, box], labels, CLASSES, PALETTE, scores=scores, side=50)
        assert both[30, 10].tolist() == [0, 255, 0]  # green is the dog


def test_predictions_below_the_threshold_are_left_out():
    image = np.zeros((50, 50, 3), np.uint8)
    box = np.array([[10.0, 10, 40, 40]])
    arguments = (CLASSES, PALETTE)
    none = compare_with_truth(image, box, [0], box, [1], [0.4], *arguments, side=100)
    one = compare_with_truth(image, box, [0], box, [1], [0.6], *arguments, side=100)
    assert none.shape == one.shape == (130, 208, 3)  # a header of 30, a gap of 8
    left, right = slice(0, 100), slice(108, 208)
    assert (none[30:, left] > 0).any() and not (none[30:, right] > 0).any()
    assert (one[30:, right, 1] > 200).any()  # the dog is green
    np.testing.assert_array_equal(one[:, left], none[:, left])


def test_nothing_to_draw():
    image = np.zeros((50, 50, 3), np.uint8)
    empty = np.zeros((0, 4))
    picture = compare_with_truth(image, empty, [], empty, [], [], CLASSES, PALETTE, side=100)
    assert picture[30:, :100].max() == 0


def test_curve_is_a_picture(tmp_path):
    for name, epochs in (('some.png', [1, 2, 3]), ('none.png', [])):
        curves = dict(AP=[0.1 * epoch for epoch in epochs], AP50=[0.2 * epoch for epoch in epochs])
        plot_ap_curve(epochs, curves, tmp_path / name)
        assert cv2.imread(str(tmp_path / name)).shape == (540, 840, 3)


def test_curves_of_stability_are_a_picture(tmp_path):
    nan = float('nan')
    for name, epochs in (('some.png', [1, 2, 3]), ('none.png', [])):
        ap = {run: [0.1 * epoch for epoch in epochs] for run in ('with', 'without')}
        instability = {run: [nan, 0.5, 0.4][: len(epochs)] for run in ('with', 'without')}
        plot_matching_stability(epochs, ap, instability, tmp_path / name, 'title')
        assert cv2.imread(str(tmp_path / name)).shape == (540, 1320, 3)


def test_convergence_shows_all_of_every_curve(tmp_path, monkeypatch):
    """Panels share their axis, which reaches from zero to the highest value of any."""

    def summaries(*aps):
        runs = {RunName('d', 'baseline', 0): [0.0, 0.1], RunName('d', 'both', 0): aps}
        epochs = {
            run: [Epoch(i + 1, ap, ap, ap, 3.0, 1.0, 1.0, 0, 0, 0) for i, ap in enumerate(values)]
            for run, values in runs.items()
        }
        return summarize(epochs)['d']

    drawn = []
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda figure, _: drawn.append(figure))
    plot_convergence({'low': summaries(0.0, 0.2), 'high': summaries(0.1, 0.6)}, tmp_path / 'a.png')
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == ['low', 'high']
    assert all(len(axes.lines) == 3 for axes in panels)  # two variants and the dashed line
    low, high = panels[1].get_ylim()
    assert low == 0 and 0.6 < high < 0.8
