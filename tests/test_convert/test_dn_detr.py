# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Published DN-DETR checkpoints: 91 category ids and 80 classes, loading as they are, detrex."""

from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config

from deim_mmdet.convert import (
    convert_checkpoint_file,
    convert_state_dict,
    fitting_configs,
    revert_state_dict,
)
from deim_mmdet.convert.class_rows import COCO_GAPS
from tests.fixtures import fill

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / 'tests' / 'fixtures'
CONFIGS = {
    'dn_detr_r50': ROOT / 'configs/dn_detr/dn-detr_r50_8xb2-50e_coco.py',
    'dn_deformable_detr_r50': ROOT / 'configs/dn_detr/dn-deformable-detr_r50_8xb2-50e_coco.py',
}
# category id of each of COCO's classes
IDS = [i for i in range(1, 91) if i not in COCO_GAPS]


@pytest.fixture(scope='module', params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture(scope='module')
def published(name):
    weights = fill.state_dict_from_tsv(FIXTURES / f'{name}.tsv')
    return {key: torch.from_numpy(value) for key, value in weights.items()}


@pytest.fixture(scope='module')
def published_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp('published') / 'checkpoint0049.pth'
    torch.save(dict(model=published, epoch=49), path)
    return path


def published_rows(published):
    """Weight and bias of the first class head, and the table of labels."""
    head = 'class_embed.0' if 'class_embed.0.bias' in published else 'class_embed'
    return published[f'{head}.weight'], published[f'{head}.bias'], published['label_enc.weight']


def our_rows(state):
    head = 'fc_cls' if 'bbox_head.fc_cls.bias' in state else 'cls_branches.0'
    names = f'bbox_head.{head}.weight', f'bbox_head.{head}.bias', 'denoising.label_embedding.weight'
    return [state[name] for name in names]


def assert_80_of_91(found, published):
    for ours, theirs in zip(found, published_rows(published)):
        assert torch.equal(ours[:80], theirs[IDS])
        if len(theirs) == 92:  # the label of normal queries stays the last
            assert torch.equal(ours[80], theirs[91])
        assert len(ours) == len(theirs) - 11


def test_the_tool_maps_category_ids_for_80_classes(name, published, published_file, tmp_path):
    cfg = Config.fromfile(CONFIGS[name])
    report = convert_checkpoint_file(published_file, tmp_path / 'out.pth', cfg)
    assert report.fits
    assert 'class rows: 80 of 80 from the checkpoint (person <- person, ' in str(report)
    checkpoint = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert checkpoint['meta']['dataset_meta']['classes'] == CocoDataset.METAINFO['classes']
    assert_80_of_91(our_rows(checkpoint['state_dict']), published)


def test_the_tool_keeps_91_rows_where_nothing_says_otherwise(
    name, published, published_file, tmp_path
):
    with_91 = Config.fromfile(CONFIGS[name])
    with_91.model.bbox_head.num_classes = 91
    for cfg in (None, with_91):
        report = convert_checkpoint_file(published_file, tmp_path / f'{bool(cfg)}.pth', cfg)
        assert report.fits and report.class_rows is None
        checkpoint = torch.load(tmp_path / f'{bool(cfg)}.pth', weights_only=True)
        for ours, theirs in zip(our_rows(checkpoint['state_dict']), published_rows(published)):
            assert torch.equal(ours, theirs)
        classes = checkpoint['meta']['dataset_meta']['classes']
        assert len(classes) == 91 and classes[:2] == ('(none)', 'person')


@pytest.mark.parametrize('num_classes', [80, 91])
def test_a_model_takes_the_file_as_it_is(name, published, num_classes, monkeypatch):
    said = []
    monkeypatch.setattr('deim_mmdet.convert.on_load.print_log', lambda text, **_: said.append(text))
    cfg = Config.fromfile(CONFIGS[name]).model
    cfg.bbox_head.num_classes = num_classes
    model = MODELS.build(cfg)
    model.load_state_dict(dict(model=published), strict=False)
    if num_classes == 80:
        assert_80_of_91(our_rows(model.state_dict()), published)
    else:
        for ours, theirs in zip(our_rows(model.state_dict()), published_rows(published)):
            assert torch.equal(ours, theirs)
    assert ('class rows: 80 of 80' in said[0]) == (num_classes == 80)
    anchors = model.state_dict()['query_embedding.weight']
    assert torch.equal(anchors, published['refpoint_embed.weight'])


def distinct_models():
    """The configs for COCO, one for each form of network."""
    found = {}
    for path in sorted((ROOT / 'configs/dn_detr').glob('*_coco.py')):
        model = Config.fromfile(path).model
        backbone = model.backbone.depth, model.backbone.get('strides')
        form = model.type, *backbone, model.get('num_patterns')
        found.setdefault(str(form), path)
    return list(found.values())


@pytest.mark.parametrize('path', distinct_models(), ids=lambda path: path.stem)
def test_every_model_there_and_back(path):
    """Each tensor of ours has a published name, and comes back from it."""
    cfg = Config.fromfile(path).model
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg)
    model.init_weights()  # mmdet leaves the level embedding as the memory happens to be, NaN too
    ours = model.state_dict()
    published, family = revert_state_dict(ours)
    assert family.name == ('DN-Deformable-DETR' if 'deformable' in path.stem else 'DN-DETR')
    back, report = convert_state_dict(published, ours)
    assert report.fits
    assert set(ours) - set(back) == {key for key in ours if key.endswith('num_batches_tracked')}
    assert all(torch.equal(ours[key], value) for key, value in back.items())


def test_three_patterns_are_told_from_none(tmp_path):
    """The published R50-DC5 of 12 epochs has a content for each pattern."""
    path = ROOT / 'configs/dn_detr/dn-detr_r50-dc5_8xb2-12e_coco.py'
    cfg = Config.fromfile(path).model
    cfg.backbone.init_cfg = None
    published, _ = revert_state_dict(MODELS.build(cfg).state_dict())
    assert published['transformer.patterns.weight'].shape == (3, 256)
    torch.save(dict(model=published), tmp_path / 'published.pth')
    report = convert_checkpoint_file(
        tmp_path / 'published.pth', tmp_path / 'out.pth', Config.fromfile(path)
    )
    assert report.fits
    found, differences = fitting_configs(convert_state_dict(published)[0])
    assert differences == 0 and [Path(name).name for name in found] == [path.name]


def test_configs_that_fit(name, published):
    found, differences = fitting_configs(convert_state_dict(published)[0])
    assert differences == 0
    method = 'dn-deformable-detr_r50' if 'deformable' in name else 'dn-detr_r50'
    assert found and all(Path(path).name.startswith((method, f'deim_{method}')) for path in found)
    assert str(CONFIGS[name].relative_to(ROOT)) in {str(Path(path)) for path in found}


def test_another_model_is_refused(published, name):
    other = next(path for key, path in CONFIGS.items() if key != name)
    cfg = Config.fromfile(other).model
    with pytest.raises(ValueError, match=f'do not fit the model: .*{CONFIGS[name].stem}'):
        MODELS.build(cfg).load_state_dict(dict(published), strict=False)


def test_detrex_is_named():
    weights = {
        'backbone.conv1.weight': torch.zeros(1),
        'neck.convs.0.conv.weight': torch.zeros(1),
        'transformer.encoder.layers.0.attentions.0.attn.in_proj_weight': torch.zeros(1),
    }
    with pytest.raises(ValueError, match=r'those of detrex, which has other names \(e.g. transf'):
        convert_state_dict(weights)
