# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
import re

import pytest
import torch
from mmdet.datasets import Objects365V1Dataset

from deim_mmdet.convert.class_rows import (
    class_tensors,
    classes_of_rows,
    find_class_rows,
    fit_class_rows,
    known_classes,
    map_class_rows,
)

FOUND = [  # classes of the data set, classes of the checkpoint, row of each
    ([], ['cat'], ()),
    (['cat'], [], (-1,)),
    (['dog', 'cat'], ['cat', 'dog'], (1, 0)),
    (['CAT', 'hot_dog', 'hot-dog '], ['Hot Dog', 'cat'], (1, 0, 0)),  # case, space, _, -
    (['cow'], ['cat', 'dog'], (-1,)),
    (['satchel'], ['cat', 'Handbag/Satchel'], (1,)),
    (['TV/screen'], ['Moniter/TV'], (0,)),  # alternatives on both sides
    (['bread', 'bun'], ['bread/bun', 'bread'], (1, 0)),  # the very name before an alternative
    (['Cat'], ['CAT', 'Cat'], (1,)),  # the very name before another case
    (['sofa', 'hair drier'], ['Hair Dryer', 'Couch'], (1, 0)),  # synonyms
    (['pedestrian', 'person'], ['person'], (0, 0)),  # one row for two classes
    (['cat'], [None, 'cat'], (1,)),  # a row for no class
]


@pytest.mark.parametrize(('wanted', 'known', 'rows'), FOUND)
def test_classes_are_found_by_name(wanted, known, rows):
    assert find_class_rows(wanted, known).rows == rows


def test_aliases_name_what_the_checkpoint_calls_a_class():
    rows = find_class_rows(['van', 'cat'], ['Cat', 'Car', 'van'], {'van': 'car'})
    assert rows.rows == (1, 0)
    with pytest.raises(ValueError, match="'van' is called 'lorry'.*data set: van; .*: cat, dog"):
        find_class_rows(['van'], ['cat', 'dog'], {'van': 'lorry'})
    with pytest.raises(ValueError, match="class 'car' is called 'cat'"):
        find_class_rows(['van'], ['cat', 'dog'], {'car': 'cat'})


@pytest.mark.parametrize(
    ('wanted', 'known', 'which'),
    [(['a', 'b', 'a'], ['c'], 'data set names a'), (['a'], ['c', 'c'], 'checkpoint names c')],
)
def test_duplicates_are_refused_with_both_lists(wanted, known, which):
    with pytest.raises(ValueError, match=f"class list of the {which} more than once.*'c'.*'a'"):
        find_class_rows(wanted, known)


def test_every_coco_class_has_a_row_in_objects365():
    coco, objects365 = classes_of_rows(80), classes_of_rows(365)
    rows = find_class_rows(coco, objects365)
    assert rows.found == 80 and len(set(rows.rows)) == 80
    renamed = {c: objects365[r] for c, r in zip(coco, rows.rows)}
    expected = dict(
        bird='Wild Bird',
        couch='Couch',
        suitcase='Luggage',
        handbag='Handbag/Satchel',
        tv='Moniter/TV',
    )
    assert expected.items() <= renamed.items()
    # version 1 has single balls, and none that stands for all
    older = find_class_rows(coco, Objects365V1Dataset.METAINFO['classes'])
    assert [name for name, row in zip(coco, older.rows) if row < 0] == ['sports ball']
    voc = 'aeroplane bicycle diningtable motorbike pottedplant sofa tvmonitor'.split()
    assert find_class_rows(voc, coco).found == len(voc)


def test_rows_by_category_id():
    coco, objects365 = classes_of_rows(80), classes_of_rows(365)
    assert classes_of_rows(366) == (None, *objects365)
    by_id = classes_of_rows(91)
    assert tuple(name for name in by_id if name) == coco
    # category ids of COCO: 1 person, 12 unused, 13 stop sign, 90 toothbrush
    assert [by_id[i] for i in (0, 1, 12, 13, 90)] == [
        None,
        'person',
        None,
        'stop sign',
        'toothbrush',
    ]
    assert classes_of_rows(7) is None


SAID = [  # classes of the data set, of the checkpoint, what the log says
    (['a', 'b'], ['A', 'b'], 'class rows: all 2 as in the checkpoint'),
    (['b', 'x'], ['a', 'b'], 'class rows: 1 of 2 from the checkpoint (b <- b), new: x'),
    (
        [f'c{i}' for i in range(10)],
        [f'c{i}' for i in range(9)],
        'class rows: 9 of 10 from the checkpoint (c0 <- c0, c1 <- c1, c2 <- c2, c3 <- c3, c4 <- c4,'
        ' c5 <- c5, c6 <- c6, c7 <- c7, and 1 more), new: c9',
    ),
]


@pytest.mark.parametrize(('wanted', 'known', 'said'), SAID)
def test_the_log_line_says_where_the_rows_came_from(wanted, known, said):
    assert str(find_class_rows(wanted, known)) == said


def weights(num_classes, value, dims=2):
    """Rows value, value + 1, ...; the padding row is -value."""
    column = torch.arange(num_classes, dtype=torch.float32) + value
    rows = column[:, None].repeat(1, dims)
    return {
        'backbone.weight': torch.full((3,), float(value)),
        'query_selection.cls_branch.weight': rows,
        'query_selection.cls_branch.bias': column,
        'decoder.cls_branches.0.weight': rows + 0.5,
        'decoder.cls_branches.0.bias': column + 0.5,
        'denoising.label_embedding.weight': torch.cat([rows, torch.full((1, dims), -float(value))]),
    }


def test_class_tensors_are_known_by_name():
    assert class_tensors(weights(2, 0)) == [key for key in weights(2, 0) if 'backbone' not in key]
    mmdet = [f'bbox_head.cls_branches.6.{part}' for part in ('weight', 'bias')]
    mmdet.append('dn_query_generator.label_embedding.weight')
    other = ['bbox_head.reg_branches.0.bias', 'my_cls_branch.weight', 'cls_branch.norm.weight']
    assert class_tensors(mmdet + other) == mmdet
    # Grounding-DINO: one bias for all words
    assert class_tensors([*mmdet[1:], *other]) == []


def test_every_row_is_that_of_its_class():
    state, own = weights(3, 10), weights(4, 100)
    rows = find_class_rows(['c', 'new', 'a', 'b'], ['a', 'b', 'c'])
    before = {key: value.clone() for key, value in {**state, **own}.items()}
    mapped = map_class_rows(state, own, rows)
    prior = -math.log(99)
    for key, expected in {
        'backbone.weight': [10, 10, 10],
        'query_selection.cls_branch.weight': [[12] * 2, [101] * 2, [10] * 2, [11] * 2],
        'query_selection.cls_branch.bias': [12, prior, 10, 11],
        'decoder.cls_branches.0.weight': [[12.5] * 2, [101.5] * 2, [10.5] * 2, [11.5] * 2],
        'decoder.cls_branches.0.bias': [12.5, prior, 10.5, 11.5],
        'denoising.label_embedding.weight': [[12] * 2, [101] * 2, [10] * 2, [11] * 2, [-10] * 2],
    }.items():
        torch.testing.assert_close(mapped[key], torch.tensor(expected, dtype=torch.float32))
    assert all(torch.equal(before[key], value) for key, value in {**state, **own}.items())


def test_row_0_of_objects365_by_category_id_is_no_class():
    state, own = weights(366, 0), weights(2, 1000)
    fitted = fit_class_rows(dict(state_dict=state), own, ['Sneakers', 'person'])
    assert not fitted.hint
    # ids: 1 Person, 2 Sneakers
    assert fitted.state['query_selection.cls_branch.bias'].tolist() == [2, 1]
    named = dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes_of_rows(365))))
    assert known_classes(named) == classes_of_rows(366)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_mapped_rows_have_the_type_of_the_model(dtype):
    state = {key: value.to(dtype) for key, value in weights(2, 1).items()}
    mapped = map_class_rows(state, weights(2, 5), find_class_rows(['b', 'a'], ['a', 'b']))
    assert mapped['query_selection.cls_branch.bias'].tolist() == [2, 1]
    assert mapped['query_selection.cls_branch.bias'].dtype == torch.float32


def test_a_model_of_another_size_is_left_to_loading():
    state, own = weights(2, 1, dims=4), weights(2, 5)
    mapped = map_class_rows(state, own, find_class_rows(['b', 'a'], ['a', 'b']))
    key = 'query_selection.cls_branch.weight'
    assert mapped[key] is state[key]


def test_weights_of_distributed_training_and_without_denoising():
    state = {f'module.{key}': value for key, value in weights(2, 1).items()}
    own = {key: value for key, value in weights(2, 5).items() if 'denoising' not in key}
    mapped = map_class_rows(state, own, find_class_rows(['b', 'a'], ['a', 'b']))
    assert mapped['module.query_selection.cls_branch.bias'].tolist() == [2, 1]
    key = 'module.denoising.label_embedding.weight'
    assert mapped[key] is state[key]


@pytest.mark.parametrize(
    ('known', 'wanted', 'says'),
    [
        (
            ['a', 'b', 'c'],
            ['a', 'b'],
            'of the checkpoint has 2 class rows, but its class list has 3',
        ),
        (['a', 'b'], ['a', 'b', 'c'], 'of the model has 2 class rows, but its class list has 3'),
    ],
)
def test_lists_of_another_length_are_refused_with_both(known, wanted, says):
    with pytest.raises(ValueError, match=says) as error:
        map_class_rows(weights(2, 1), weights(2, 5), find_class_rows(wanted, known))
    for what, names in (('checkpoint', known), ('data set', wanted)):
        assert f'of the {what}: {", ".join(map(repr, names))}' in str(error.value)


def checkpoint(number, classes=None):
    meta = {} if classes is None else dict(meta=dict(dataset_meta=dict(CLASSES=classes)))
    return dict(state_dict=weights(number, 1), **meta)


BIAS = 'query_selection.cls_branch.bias'
PRIOR = -math.log(99)
FITTED = [  # checkpoint, classes of the data set, training, biases, complete, what is said
    (checkpoint(2, ('a', 'b')), ['b', 'a'], True, [2, 1], True, '2 of 2 from the checkpoint'),
    (checkpoint(2), ['b', 'a'], True, [1, 2], False, 'does not name its 2 classes, kept in order'),
    (checkpoint(3), ['b', 'a'], True, [PRIOR] * 2, False, '3 of the checkpoint .which it does not'),
    (checkpoint(2, ('a', 'b')), ['x', 'y'], True, [PRIOR] * 2, False, 'all of them are new.*alias'),
    # evaluated, not trained: the classes were renamed
    (checkpoint(2, ('a', 'b')), ['x', 'y'], False, [1, 2], False, 'rows are kept in order'),
    (checkpoint(3, ('a', 'b', 'c')), ['x'], False, [PRIOR], False, 'all of them are new'),
]


@pytest.mark.parametrize(('loaded', 'wanted', 'training', 'biases', 'complete', 'said'), FITTED)
def test_fit_to_the_classes_of_a_run(loaded, wanted, training, biases, complete, said):
    fitted = fit_class_rows(loaded, weights(len(wanted), 7), wanted, None, training)
    torch.testing.assert_close(fitted.state[BIAS], torch.tensor(biases, dtype=torch.float32))
    assert re.search(said, f'{fitted.message}. {fitted.hint}')
    assert bool(fitted.hint) != complete


def softmax(num_classes, value, **meta):
    """Rows value, value + 1, ...; the background is -value."""
    bias = torch.arange(num_classes + 1, dtype=torch.float32) + value
    bias[-1] = -value
    state = {'bbox_head.fc_cls.weight': bias[:, None].repeat(1, 2), 'bbox_head.fc_cls.bias': bias}
    return dict(state_dict=state, meta=dict(dataset_meta=meta))


SOFTMAX = [  # checkpoint, classes of the data set, training, biases, what is said
    # DETR of mmdet, Faster R-CNN: COCO's classes; the published DETR: by category id
    (softmax(80, 1000), ['car', 'person'], True, [1002, 1000, -1000], '2 of 2 from'),
    (softmax(91, 1000), ['car', 'person'], True, [1003, 1001, -1000], '2 of 2 from'),
    (softmax(365, 1000), ['Sneakers', 'person'], True, [1001, 1000, -1000], '2 of 2 from'),
    (
        softmax(365, 1000, classes=classes_of_rows(365)),
        ['Sneakers', 'person'],
        True,
        [1001, 1000, -1000],
        '2 of 2 from',
    ),
    (softmax(80, 1000), classes_of_rows(80), True, [*range(1000, 1080), -1000], 'all 80 as in'),
    (softmax(2, 5), ['b', 'a'], True, [5, 6, -5], 'does not name its 2 classes, kept in order'),
    (softmax(2, 5, classes=('a', 'b')), ['x', 'y'], False, [5, 6, -5], 'rows are kept in order'),
    # new rows are those of the model: a softmax has no prior
    (softmax(3, 5), ['b', 'a'], True, [7, 8, -5], 'the 3 of the checkpoint.*all of them are new'),
]


@pytest.mark.parametrize(('loaded', 'wanted', 'training', 'biases', 'said'), SOFTMAX)
def test_the_background_of_a_softmax_is_no_class(loaded, wanted, training, biases, said):
    own = softmax(len(wanted), 7)['state_dict']
    fitted = fit_class_rows(loaded, own, wanted, None, training)
    assert fitted.state['bbox_head.fc_cls.bias'].tolist() == biases
    assert fitted.state['bbox_head.fc_cls.weight'][:, 0].tolist() == biases
    assert re.search(said, fitted.message)


def test_words_of_grounding_dino_are_left_alone():
    state = {
        'bbox_head.cls_branches.0.bias': torch.zeros(1),
        'dn_query_generator.label_embedding.weight': torch.zeros(256, 2),
    }
    assert class_tensors(state) == []
    own = {key: torch.ones_like(value) for key, value in state.items()}
    fitted = fit_class_rows(dict(state_dict=state), own, ['cat', 'dog'])
    assert all(fitted.state[key] is state[key] for key in state)
