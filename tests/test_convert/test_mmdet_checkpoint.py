# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from deim_mmdet.convert import (
    FAMILIES,
    Family,
    PublishedForm,
    check_class_names,
    convert_state_dict,
    is_published,
    revert_state_dict,
    to_mmdet_checkpoint,
    to_official_checkpoint,
)
from deim_mmdet.convert.family import under

from .published import TABLE_HW, TABLES, published_checkpoint, published_state

# -- tables of names, read backwards


@pytest.mark.parametrize('table', TABLES)
def test_the_way_in_and_out_gives_the_published_checkpoint(table):
    state = published_state(table)
    ours, report = convert_state_dict(state)
    assert report.family == TABLES[table]
    back, family = revert_state_dict(ours, family=report.family, form=PublishedForm(TABLE_HW))
    assert family.name == report.family
    assert set(back) == set(state)
    for key, tensor in state.items():
        assert back[key].shape == tensor.shape and back[key].dtype == tensor.dtype, key
        if key in report.mapped:  # the others are computed
            assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize(
    'table, sides, points',
    [
        ('deim_hgnetv2_n', (40, 20), (6, 6)),  # cells of stride 16 and 32 along 640 pixels
        ('rtdetrv2_r18vd_120e', (80, 40, 20), (4, 4, 4)),
    ],
)
def test_computed_tensors(table, sides, points):
    published, _ = revert_state_dict(convert_state_dict(published_state(table))[0])
    anchors, valid = published['decoder.anchors'], published['decoder.valid_mask']
    assert anchors.shape[1] == valid.shape[1] == sum(side**2 for side in sides)
    # the centre of the first cell is half a cell from the border, invalid below 0.01
    assert valid[0, 0] == (0.5 / sides[0] > 0.01)
    centre = sides[0] ** 2 // 2 + sides[0] // 2  # the cell right below the centre of the image
    wanted = torch.tensor([0.5 + 0.5 / sides[0]] * 2 + [0.05] * 2).logit()
    torch.testing.assert_close(anchors[0, centre], wanted)
    scale = published['decoder.decoder.layers.2.cross_attn.num_points_scale']
    torch.testing.assert_close(scale, torch.tensor([1 / n for n in points for _ in range(n)]))


def test_other_points_are_those_of_the_config():
    ours, _ = convert_state_dict(published_state('deim_hgnetv2_n'))
    published, _ = revert_state_dict(ours, form=PublishedForm(points_per_level=(4, 8)))
    scale = published['decoder.decoder.layers.0.cross_attn.num_points_scale']
    torch.testing.assert_close(scale, torch.tensor([1 / 4] * 4 + [1 / 8] * 8))
    with pytest.raises(ValueError, match=r'has 96 values.*\(5, 6\) sampling points on 2 levels'):
        revert_state_dict(ours, form=PublishedForm(points_per_level=(5, 6)))


def test_constants_are_integers_where_they_were():
    ours, _ = convert_state_dict(published_state('deim_hgnetv2_n'))
    for value, dtype in ((8.0, torch.int64), (4.5, torch.float32)):
        ours['decoder.reg_scale'] = torch.tensor([value])
        published, _ = revert_state_dict(ours)
        for name in ('decoder.reg_scale', 'decoder.decoder.reg_scale'):
            assert published[name].dtype == dtype and published[name] == value


def test_parts_and_copies(monkeypatch):
    family = Family(
        'toy',
        rules=under(
            'a.',
            'b.',
            (('q.{leaf}', 'k.{leaf}', 'v.{leaf}'), 'qkv_{leaf}'),
            ('head.{leaf}', 'head.{leaf}'),
        ),
        copies=(('second.{leaf}', 'a.head.{leaf}'),),
    )
    monkeypatch.setattr('deim_mmdet.convert.state_dict.FAMILIES', (family,))
    state = {f'a.{name}.weight': torch.rand(2, 3) for name in ('k', 'v', 'q', 'head')}
    state['second.weight'] = state['a.head.weight']
    ours, report = convert_state_dict(state)
    assert set(ours) == {'b.qkv_weight', 'b.head.weight'}
    wanted = torch.cat([state[f'a.{name}.weight'] for name in 'qkv'])
    assert torch.equal(ours['b.qkv_weight'], wanted)
    assert report.dropped == {'second.weight': 'second copy of another'}
    back, _ = revert_state_dict(ours)
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)

    del state['a.k.weight']
    with pytest.raises(ValueError, match=r'b.qkv_weight is made of .*, the checkpoint has'):
        convert_state_dict(state)


def test_no_family_renames_our_names():
    for table in ('deim_hgnetv2_n', 'rtdetr_r18vd_6x'):
        ours, _ = convert_state_dict(published_state(table))
        for family in FAMILIES:
            assert all(family.convert(key) in (None, key) for key in ours)
        assert not is_published(ours)


def test_weights_without_a_name_are_refused():
    ours, _ = convert_state_dict(published_state('deim_hgnetv2_n'))
    ours['decoder.folded.weight'] = torch.zeros(1)
    with pytest.raises(ValueError, match='1 of 668 weights have no name.*decoder.folded.weight'):
        revert_state_dict(ours)
    with pytest.raises(ValueError, match="no family 'YOLO' in the official layout"):
        revert_state_dict(ours, family='YOLO')


# -- whole checkpoints


def test_official_checkpoint():
    ours = to_mmdet_checkpoint(published_checkpoint('deim_hgnetv2_n'))
    ours = dict(ours, ema_state_dict=dict(steps=torch.tensor(5)))
    official, family = to_official_checkpoint(ours)
    assert family == 'D-FINE / DEIM-D-FINE'
    assert official['ema']['updates'] == 5 and official['last_epoch'] == 11
    wanted = published_state('deim_hgnetv2_n')  # the moving average
    key = 'decoder.decoder.layers.0.linear1.weight'
    assert torch.equal(official['model'][key], wanted[key])
    assert official['ema']['module'] is official['model']
    with pytest.raises(ValueError, match='have their published names already'):
        to_official_checkpoint(official)


@pytest.mark.parametrize(
    'table, asked, family',
    [
        ('rtdetr_r18vd_6x', None, 'RT-DETR'),  # goes back where it came from
        ('rtdetrv2_r18vd_120e', None, 'RT-DETRv2 / DEIM-RT-DETRv2'),
        ('rtdetrv2_r18vd_120e', 'RT-DETR', 'RT-DETR'),
    ],
)
def test_family_of_an_official_checkpoint(table, asked, family):
    ours = to_mmdet_checkpoint(published_checkpoint(table))
    assert to_official_checkpoint(ours, asked)[1] == family
    # trained on: where it came from is not known any more
    bare = dict(state_dict=ours['state_dict'], meta={})
    assert to_official_checkpoint(bare)[1] == 'RT-DETRv2 / DEIM-RT-DETRv2'


def test_mmdet_checkpoint():
    ours = dict(state_dict={'neck.a': torch.zeros(1)}, meta={})
    assert to_mmdet_checkpoint(ours) is ours
    bare = ours['state_dict']
    assert to_mmdet_checkpoint(bare) == dict(state_dict=bare, meta={})
    new = to_mmdet_checkpoint(published_checkpoint('rtdetr_r18vd_6x'))
    assert new['meta']['dataset_meta']['classes'][:2] == ('person', 'bicycle')
    assert new['meta']['published_family'] == 'RT-DETR'


@pytest.mark.parametrize(
    'num_classes, first, last',
    [
        (3, None, None),
        (80, 'person', 'toothbrush'),
        (365, 'Person', 'Table Tennis '),
        (366, '(none)', 'Table Tennis '),  # by category id, which begins with 1
    ],
)
def test_classes_by_their_number(num_classes, first, last):
    meta = to_mmdet_checkpoint({'decoder.enc_score_head.bias': torch.zeros(num_classes)})['meta']
    if first is None:
        assert 'dataset_meta' not in meta
    else:
        classes = meta['dataset_meta']['classes']
        assert (len(classes), classes[0], classes[-1]) == (num_classes, first, last)


@pytest.mark.parametrize(
    'names, known, message',
    [
        ([], None, r'0 class names for 2 classes.*Given: \[\]. The head has 2 classes \(no names'),
        (['cat'], ('dog', None), r"Given: \['cat'\]. .*2 classes: \['dog', '\(none\)'\]"),
        (['cat', 'cat'], None, r"names \['cat'\] more than once. Given: \['cat', 'cat'\]"),
    ],
)
def test_class_lists_that_are_refused(names, known, message):
    with pytest.raises(ValueError, match=message):
        check_class_names(names, 2, known)
    check_class_names(['cat', 'dog'], 2)
