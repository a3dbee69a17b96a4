# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData

from deim_mmdet.models.task_modules import BatchTaskAlignedAssigner

STRIDE, SIDE, CLASSES = 8, 16, 5


def cells():
    """Centres of a grid of 16 x 16 cells of 8 pixels, (256, 2)."""
    axis = (torch.arange(SIDE) + 0.5) * STRIDE
    y, x = torch.meshgrid(axis, axis, indexing='ij')
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def predictions(bs, seed=0):
    """Random scores, and boxes that stay within their cell: they overlap what contains it only."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(bs, SIDE**2, CLASSES, generator=generator)
    sides = torch.rand(bs, SIDE**2, 4, generator=generator) * STRIDE / 2
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    return scores, cells().repeat(1, 2) + signs * sides


def objects(counts, seed=1):
    """Random boxes on the lines of the grid, with padding: labels, boxes, valid."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(counts), max(counts))
    labels = torch.randint(CLASSES, shape, generator=generator)
    first = torch.randint(SIDE - 5, (*shape, 2), generator=generator)
    last = first + torch.randint(2, 6, (*shape, 2), generator=generator)
    boxes = torch.cat([first, last], dim=-1).float() * STRIDE
    valid = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return labels, boxes, valid


def as_set(assigned, image, count):
    """{(object, cell): score} of an image."""
    return {
        (m, int(cell)): float(score)
        for m in range(count)
        for cell, score in zip(assigned.index[image, m], assigned.score[image, m])
        if score > 0
    }


def test_by_hand():
    """Three cells within an object of 16 x 16 pixels, and one outside that fits it perfectly.

    Alignments sqrt(score) * IoU^6: sqrt(.04) * 1 = .2; sqrt(.64) * .5^6 = .0125; sqrt(.36) * 0 = 0;
    outside none. Scaled so that the best gets the best IoU, 1: 1 and .0125 / .2 = .0625.
    """
    centres = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [20.0, 4.0]])
    scores = torch.tensor([[[0.9, 0.04], [0.9, 0.64], [0.9, 0.36], [0.9, 1.0]]])
    whole, half, apart = [0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 16.0, 8.0], [20.0, 20.0, 30.0, 30.0]
    boxes = torch.tensor([[whole, half, apart, whole]])
    assigned = BatchTaskAlignedAssigner()(
        scores, boxes, centres, torch.tensor([[1]]), torch.tensor([[whole]]), torch.tensor([[True]])
    )
    assert assigned.index.shape == assigned.score.shape == (1, 1, 4)
    assert as_set(assigned, 0, 1) == pytest.approx({(0, 0): 1.0, (0, 1): 0.0625})


def test_agrees_with_mmdet():
    """With boxes that overlap only objects around them, the order of the two conditions is
    irrelevant."""
    counts = (9, 1, 4)
    scores, boxes = predictions(len(counts))
    labels, gt_boxes, valid = objects(counts)
    assigned = BatchTaskAlignedAssigner()(scores, boxes, cells(), labels, gt_boxes, valid)
    theirs = TASK_UTILS.build(dict(type='TaskAlignedAssigner', topk=10))
    priors = cells().repeat(1, 2)
    for image, count in enumerate(counts):
        expected = theirs.assign(
            InstanceData(priors=priors, bboxes=boxes[image], scores=scores[image]),
            InstanceData(bboxes=gt_boxes[image, :count], labels=labels[image, :count]),
            alpha=0.5,
            beta=6,
        )
        found = as_set(assigned, image, count)
        pairs = {(int(m) - 1, cell) for cell, m in enumerate(expected.gt_inds) if m > 0}
        assert set(found) == pairs
        for m in range(count):
            mine = [cell for o, cell in found if o == m]
            alignment = expected.assign_metrics[mine]
            scaled = alignment / alignment.max() * expected.max_overlaps[mine].max()
            torch.testing.assert_close(torch.tensor([found[m, cell] for cell in mine]), scaled)


def test_an_image_alone_or_in_a_batch_gives_the_same_cells():
    counts = (2, 7, 0)
    scores, boxes = predictions(len(counts))
    labels, gt_boxes, valid = objects(counts)
    assigner = BatchTaskAlignedAssigner(topk=3)
    batch = assigner(scores, boxes, cells(), labels, gt_boxes, valid)
    for i, count in enumerate(counts):
        one = slice(i, i + 1)
        alone = assigner(
            scores[one],
            boxes[one],
            cells(),
            labels[one, :count],
            gt_boxes[one, :count],
            valid[one][:, :count],
        )
        assert alone.index.shape == (1, count, 3)
        assert as_set(batch, i, max(counts)) == as_set(alone, 0, count)


def test_a_cell_has_one_object():
    """The one it overlaps most; of two equal objects the first, and the other takes nothing."""
    scores, boxes = predictions(1)
    big, small = [0.0, 0.0, 64.0, 64.0], [8.0, 8.0, 24.0, 24.0]
    gt_boxes = torch.tensor([[big, small, small]])
    assigned = BatchTaskAlignedAssigner()(
        scores, boxes, cells(), torch.zeros(1, 3).long(), gt_boxes, torch.ones(1, 3).bool()
    )
    found = as_set(assigned, 0, 3)
    inside = {SIDE * row + column for row in (1, 2) for column in (1, 2)}
    assert {cell for m, cell in found if m == 1} == inside
    assert {cell for m, cell in found if m == 0}.isdisjoint(inside)
    assert not any(m == 2 for m, _ in found)


def test_fewer_cells_than_places_and_no_objects():
    scores, boxes = torch.rand(2, 3, CLASSES), torch.rand(2, 3, 4)
    none = torch.zeros(2, 0)
    assigned = BatchTaskAlignedAssigner()(
        scores, boxes, torch.rand(3, 2), none.long(), none.new_zeros(2, 0, 4), none.bool()
    )
    assert assigned.index.shape == assigned.score.shape == (2, 0, 3)


def test_wrong_topk():
    with pytest.raises(ValueError, match='topk must be at least 1, got 0'):
        BatchTaskAlignedAssigner(topk=0)
