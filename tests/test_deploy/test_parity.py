# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What the comparison of an exported file with PyTorch lets pass."""

import numpy as np
import pytest

pytest.importorskip('onnx')

from deim_mmdet.deploy.parity import Difference, compare, merge

BOX = (10, 10, 50, 50)
OTHER = (60, 10, 90, 50)
LIMITS = dict(box=1, score=1e-2)


def found(*rows):
    """(score, label, box) of each detection, as a graph of four results gives them."""
    rows = [*rows, *[(0, 0, (0, 0, 0, 0))] * (4 - len(rows))]
    scores, labels, boxes = zip(*rows)
    return np.float32(boxes), np.float32(scores), np.array(labels)


def moved(box, pixels):
    return (box[0] + pixels, *box[1:])


# fmt: off
ALIKE = [
    # in PyTorch,                              in the file
    ([(.9, 0, BOX)],                           [(.9, 0, BOX)]),
    ([(.9, 0, BOX)],                           [(.895, 0, moved(BOX, .9))]),
    # rounding changes the order
    ([(.9, 0, BOX), (.899, 1, OTHER)],         [(.9, 1, OTHER), (.899, 0, BOX)]),
    ([(.9, 0, BOX), (.899, 0, OTHER)],         [(.9, 0, OTHER), (.899, 0, BOX)]),
    # two of nearly one place
    ([(.9, 0, BOX), (.895, 0, moved(BOX, .5))], [(.9, 0, moved(BOX, .4)), (.895, 0, BOX)]),
    # rounding decides about the end of a full list
    ([(.9, i, BOX) for i in range(3)] + [(.400, 3, BOX)],
     [(.9, i, BOX) for i in range(3)] + [(.401, 4, BOX)]),
]
UNLIKE = [
    # in PyTorch,                              in the file,                           missing
    ([(.9, 0, BOX)],                           [(.88, 0, BOX)],                       0),
    ([(.9, 0, BOX)],                           [(.9, 0, moved(BOX, 1.1))],            0),
    ([(.9, 0, BOX)],                           [(.9, 1, BOX)],                        2),
    ([(.9, 0, BOX), (.8, 0, OTHER)],           [(.9, 0, BOX)],                        1),
    # the file finds more: elsewhere, of another class, or the same again
    ([(.9, 0, BOX)],                           [(.9, 0, BOX), (.89, 0, OTHER)],       1),
    ([(.9, 0, BOX)],                           [(.9, 0, BOX), (.89, 1, BOX)],         1),
    ([(.9, 0, BOX)],                           [(.9, 0, BOX), (.9, 0, BOX)],          1),
    ([],                                       [(.9, 0, BOX)],                        1),
    # neither finds anything: that shows nothing
    ([],                                       [],                                    0),
    # no numbers, on either side or both
    ([(np.nan, 0, BOX)],                       [(.9, 0, BOX)],                        0),
    ([(.9, 0, BOX)],                           [(.9, 0, moved(BOX, np.nan))],         0),
    ([(np.nan, 0, BOX)] * 4,                   [(np.nan, 0, BOX)] * 4,                0),
    ([(.9, 0, BOX)],                           [(.9, 0, moved(BOX, np.inf))],         0),
]
# fmt: on


def full_list(rows):
    """Four results need more than the ten best to show what happens at the end of a list."""
    return [(0.95, 9, (i, 0, 200 + i, 99)) for i in range(10)] + rows if len(rows) == 4 else rows


@pytest.mark.parametrize(('expected', 'actual'), ALIKE)
def test_alike(expected, actual):
    expected, actual = full_list(expected), full_list(actual)
    for pair in ((expected, actual), (actual, expected)):
        difference = compare(*(found(*rows) for rows in pair))
        assert difference.within(**LIMITS), str(difference)


@pytest.mark.parametrize(('expected', 'actual', 'missing'), UNLIKE)
def test_unlike(expected, actual, missing):
    for pair in ((expected, actual), (actual, expected)):
        difference = compare(*(found(*rows) for rows in pair))
        assert not difference.within(**LIMITS), str(difference)
        assert difference.missing == missing


def test_numbers():
    """Of 2 pixels and 0.01 of score; of several images the largest, and all that were compared."""
    one = compare(found((0.9, 0, BOX), (0.8, 0, OTHER)), found((0.9, 0, moved(BOX, 2))))
    assert (one.box, one.count, one.missing) == (2, 2, 1)
    other = compare(found((0.5, 3, BOX)), found((0.51, 3, BOX)))
    assert other.score == pytest.approx(0.01) and other.box == 0
    assert merge([one, other]) == Difference(2, other.score, 3, 1)
    assert str(merge([one])) == '2 px, 0 of score, over 2 detections; 1 without a counterpart'
    # lists that end where nothing more was found
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int)
    assert compare(empty, empty).count == 0
    assert compare(found((0.9, 0, BOX)), empty).missing == 1
    assert 'neither finds anything' in str(compare(empty, empty))


def test_nothing_on_one_of_several_images():
    nothing = compare(found(), found())
    same = compare(found((0.9, 0, BOX)), found((0.9, 0, BOX)))
    assert merge([nothing, same]).within(**LIMITS)
    assert not merge([nothing, nothing]).within(**LIMITS)
    for bad in (Difference(np.nan, 0, 1, 0), Difference(0, np.nan, 1, 0)):
        assert not merge([same, bad]).within(**LIMITS)
        assert not merge([bad, same]).within(**LIMITS)
