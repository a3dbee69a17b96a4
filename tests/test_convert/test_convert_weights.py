# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import pickle
import runpy
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from deim_mmdet.convert import (
    FAMILIES,
    Family,
    convert_checkpoint_file,
    convert_state_dict,
    export_checkpoint_file,
    load_weights_only,
    new_output,
    published_weights,
)
from deim_mmdet.convert.family import under
from tests.fixtures import fill

from .published import published_checkpoint

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / 'tests' / 'fixtures'
TABLES = ('deim_hgnetv2_n.tsv', 'dfine_hgnetv2_n.tsv')


def every_key(table):
    """All keys of a published checkpoint, architecture constants included, with zeros."""
    return {
        key: torch.zeros(shape, dtype=getattr(torch, dtype.split('.')[1]))
        for key, shape, dtype in fill.read_tsv(FIXTURES / table)
    }


def small_weights():
    """Three keys of a checkpoint with 80 classes."""
    return {
        'backbone.stem.stem1.conv.weight': torch.ones(2, 3, 3, 3),
        'decoder.enc_score_head.weight': torch.zeros(80, 4),
        'decoder.anchors': torch.zeros(1, 5, 4),
    }


# -- the tables of names


@pytest.mark.parametrize('table', TABLES)
def test_every_published_key_is_mapped_or_dropped(table):
    weights = every_key(table)
    converted, report = convert_state_dict(weights)
    assert set(report.mapped) | set(report.dropped) == set(weights)
    assert set(report.mapped.values()) == set(converted)
    assert len(converted) == len(report.mapped) == 667
    assert sorted(report.dropped) == [
        'decoder.anchors',
        'decoder.decoder.layers.0.cross_attn.num_points_scale',
        'decoder.decoder.layers.1.cross_attn.num_points_scale',
        'decoder.decoder.layers.2.cross_attn.num_points_scale',
        'decoder.reg_scale',
        'decoder.up',
        'decoder.valid_mask',
    ]
    for published, ours in report.mapped.items():
        assert converted[ours] is weights[published]


@pytest.mark.parametrize(
    'published, ours',
    [  # one row per rule
        ('backbone.stages.2.blocks.1.layers.0.conv1.bn.weight',) * 2,
        ('encoder.input_proj.1.norm.running_var', 'neck.input_projs.1.bn.running_var'),
        (
            'encoder.encoder.0.layers.0.self_attn.in_proj_weight',
            'neck.transformers.0.layers.0.self_attn.in_proj_weight',
        ),
        ('encoder.lateral_convs.0.conv.weight', 'neck.lateral_convs.0.conv.weight'),
        (
            'encoder.downsample_convs.0.0.cv2.norm.bias',
            'neck.downsample_convs.0.depthwise.bn.bias',
        ),
        ('encoder.pan_blocks.0.cv1.norm.weight', 'neck.pan_blocks.0.split_conv.bn.weight'),
        (
            'encoder.fpn_blocks.1.cv2.0.conv2.conv.weight',
            'neck.fpn_blocks.1.branches.0.0.short_conv.conv.weight',
        ),
        (
            'encoder.fpn_blocks.0.cv3.0.bottlenecks.1.conv1.norm.bias',
            'neck.fpn_blocks.0.branches.1.0.blocks.1.conv3x3.bn.bias',
        ),
        (
            'encoder.fpn_blocks.0.cv3.1.conv.weight',
            'neck.fpn_blocks.0.branches.1.1.conv.weight',
        ),
        ('encoder.pan_blocks.0.cv4.conv.weight', 'neck.pan_blocks.0.final_conv.conv.weight'),
        ('decoder.input_proj.2.conv.weight', 'memory_projs.2.conv.weight'),
        ('decoder.enc_output.proj.weight', 'query_selection.proj.weight'),
        ('decoder.enc_score_head.bias', 'query_selection.cls_branch.bias'),
        ('decoder.enc_bbox_head.layers.2.bias', 'query_selection.reg_branch.layers.2.bias'),
        ('decoder.denoising_class_embed.weight', 'denoising.label_embedding.weight'),
        ('decoder.query_pos_head.layers.0.weight', 'decoder.query_pos_mlp.layers.0.weight'),
        ('decoder.pre_bbox_head.layers.1.bias', 'decoder.initial_reg_branch.layers.1.bias'),
        ('decoder.dec_score_head.2.weight', 'decoder.cls_branches.2.weight'),
        ('decoder.dec_bbox_head.1.layers.0.bias', 'decoder.reg_branches.1.layers.0.bias'),
        (
            'decoder.decoder.lqe_layers.0.reg_conf.layers.1.bias',
            'decoder.quality_branches.0.mlp.layers.1.bias',
        ),
        ('decoder.decoder.reg_scale', 'decoder.reg_scale'),
        (
            'decoder.decoder.layers.1.self_attn.out_proj.weight',
            'decoder.layers.1.self_attn.out_proj.weight',
        ),
        (
            'decoder.decoder.layers.1.cross_attn.sampling_offsets.bias',
            'decoder.layers.1.cross_attn.sampling_offsets.bias',
        ),
        ('decoder.decoder.layers.0.gateway.gate.bias', 'decoder.layers.0.gateway.gate.bias'),
        ('decoder.decoder.layers.0.linear2.bias', 'decoder.layers.0.ffn.linear2.bias'),
        ('decoder.decoder.layers.0.norm3.weight', 'decoder.layers.0.norm3.weight'),
    ],
)
def test_names(published, ours):
    assert FAMILIES[0].convert(published) == ours


def test_a_family_is_a_table():
    family = Family(
        'toy',
        rules=under('head.{i}.', 'heads.{i}.', ('{kind}.{leaf}', '{kind}.{leaf}')),
        dropped=(('head.{i}.step', 'counts'),),
        placeholders={'kind': {'k': 'conv', 'k2': 'norm'}},
    )
    assert family.convert('head.10.k2.bias') == 'heads.10.norm.bias'
    assert family.convert('head.10.k3.bias') is None
    assert family.convert('head.x.k.bias') is None
    assert family.convert('a.head.0.k.bias') is None  # a rule names whole keys
    assert family.convert('headX0.k.bias') is None  # a dot is a dot
    assert family.reason_to_drop('head.3.step') == 'counts'


# -- which weights


def test_the_moving_average_comes_first():
    ema, model = ({'backbone.x': torch.full((1,), value)} for value in (1.0, 2.0))
    both = {'model': model, 'ema': {'module': ema, 'updates': 3}, 'last_epoch': 7}
    assert published_weights(both) == (ema, 'ema.module')
    assert published_weights({'model': model, 'ema': None}) == (model, 'model')
    assert published_weights(model) == (model, 'the file itself')
    wrapped = {'module.backbone.x': torch.zeros(1)}
    assert list(published_weights(wrapped)[0]) == ['backbone.x']


@pytest.mark.parametrize(
    'checkpoint, message',
    [
        ({}, 'found nothing'),
        ({'epoch': 3, 'args': 'a'}, 'expected tensors only, found epoch, args too'),
        (torch.nn.Linear(1, 1), 'this is a Linear'),
        ({'state_dict': {}, 'meta': {}}, 'is an MMDetection checkpoint'),
        ({'neck.input_projs.0.conv.weight': torch.zeros(1)}, 'have our names already'),
        (
            {'stem.stem1.conv.weight': torch.zeros(1), 'fc.weight': torch.zeros(1)},
            'is a backbone alone. HGNetv2 loads it as it is.*Pretrained',
        ),
        (
            {
                'conv1.conv1_1.conv.weight': torch.zeros(1),
                'res_layers.0.blocks.0.branch2a.conv.weight': torch.zeros(1),
            },
            'is a backbone alone. PResNet loads it as it is',
        ),
        (
            {'backbone.a': torch.zeros(1), 'encoder.new': torch.zeros(1)},
            'No rule names 1 of 2 keys.*encoder.new',
        ),
    ],
)
def test_other_checkpoints_are_refused(checkpoint, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict(checkpoint)


# -- the report


def test_report_without_a_model():
    _, report = convert_state_dict(small_weights())
    assert report.missing is report.unused is None and report.fits
    text = str(report)
    assert '2 tensors mapped, 1 dropped' in text
    assert 'dropped, computed from the size of the input: decoder.anchors' in text
    assert 'not compared with a model' in text


def test_report_with_a_model():
    model = {
        'backbone.stem.stem1.conv.weight': torch.zeros(4, 3, 3, 3),  # other shape
        'backbone.stem.stem1.bn.num_batches_tracked': torch.tensor(0),  # a counter
        'decoder.up': torch.zeros(1),  # fixed by the config
        'decoder.cls_branches.0.bias': torch.zeros(80),
    }
    _, report = convert_state_dict(small_weights(), model)
    assert report.missing == ['decoder.cls_branches.0.bias']
    assert report.unused == ['query_selection.cls_branch.weight']
    assert report.mismatched == [
        'backbone.stem.stem1.conv.weight (2, 3, 3, 3) for (4, 3, 3, 3)',
    ]
    assert not report.fits
    assert '1 missing: decoder.cls_branches.0.bias' in str(report)


def test_nothing_passed_in_is_changed():
    weights = small_weights()
    checkpoint = {'ema': {'module': weights}}
    copies = {key: value.clone() for key, value in weights.items()}
    convert_state_dict(checkpoint)
    assert list(weights) == list(copies)
    assert all(torch.equal(weights[key], copies[key]) for key in copies)


# -- files


def save(checkpoint, path):
    torch.save(checkpoint, path)
    return path


def test_converted_file_loads_through_mmengine(tmp_path):
    source = save(
        {'model': {}, 'ema': {'module': small_weights()}, 'last_epoch': 9}, tmp_path / 'a'
    )
    target = tmp_path / 'new folder' / 'b.pth'
    report = convert_checkpoint_file(source, target)
    assert report.source == 'ema.module'

    model = torch.nn.ModuleDict({'backbone': torch.nn.Module()})
    model['backbone'].stem = torch.nn.Module()
    model['backbone'].stem.stem1 = torch.nn.ModuleDict(
        {'conv': torch.nn.Conv2d(3, 2, 3, bias=False)}
    )
    meta = load_checkpoint(model, str(target))['meta']
    assert model['backbone'].stem.stem1['conv'].weight.eq(1).all()
    assert len(meta['dataset_meta']['classes']) == 80
    assert meta['dataset_meta']['classes'][:2] == ('person', 'bicycle')
    assert meta['published_epoch'] == 9
    assert os.listdir(target.parent) == ['b.pth']  # nothing temporary stays


def test_classes_are_those_of_the_weights(tmp_path):
    weights = {'decoder.enc_score_head.weight': torch.zeros(2, 4)}
    source = save({'model': weights}, tmp_path / 'a.pth')
    convert_checkpoint_file(source, tmp_path / 'unnamed.pth')
    assert 'dataset_meta' not in load_weights_only(tmp_path / 'unnamed.pth')['meta']
    convert_checkpoint_file(source, tmp_path / 'named.pth', classes=['cat', 'dog'])
    meta = load_weights_only(tmp_path / 'named.pth')['meta']
    assert meta['dataset_meta'] == {'classes': ('cat', 'dog')}
    with pytest.raises(ValueError, match=r"3 class names for 2 classes.*\['a', 'b', 'c'\].*has 2"):
        convert_checkpoint_file(source, tmp_path / 'c.pth', classes=['a', 'b', 'c'])
    assert not (tmp_path / 'c.pth').exists()


def test_nothing_is_overwritten(tmp_path):
    source = save({'model': small_weights()}, tmp_path / 'a.pth')
    target = tmp_path / 'b.pth'
    target.write_text('precious')
    with pytest.raises(FileExistsError, match='b.pth exists'):
        convert_checkpoint_file(source, target)
    assert target.read_text() == 'precious'
    convert_checkpoint_file(source, target, overwrite=True)
    assert 'state_dict' in load_weights_only(target)

    before = source.read_bytes()
    (tmp_path / 'link.pth').symlink_to(source)
    for same in (source, tmp_path / 'link.pth'):
        with pytest.raises(ValueError, match='is the input itself'):
            convert_checkpoint_file(source, same, overwrite=True)
    assert source.read_bytes() == before
    with pytest.raises(ValueError, match='is a folder'):
        convert_checkpoint_file(source, tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    source = save({'model': small_weights()}, tmp_path / 'a.pth')

    def full_disk(checkpoint, file):
        file.write_bytes(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(OSError, match='No space left'):
        convert_checkpoint_file(source, tmp_path / 'b.pth')
    assert os.listdir(tmp_path) == ['a.pth']


CONFIGS = ROOT / 'configs'
DFINE_N = CONFIGS / 'dfine/dfine_hgnetv2-n_8xb16-160e_coco.py'


def test_a_wrong_config_is_told_the_right_ones(tmp_path):
    source = save(published_checkpoint('rtdetr_r18vd_6x'), tmp_path / 'a.pth')
    with pytest.raises(
        ValueError,
        match=r'(?s)a.pth does not fit the model of this config.*RT-DETR, weights.*missing: '
        r'.*Configs that fit: .*rtdetr_r18vd_8xb2-72e_coco.py',
    ):
        convert_checkpoint_file(source, tmp_path / 'b.pth', Config.fromfile(DFINE_N))
    assert os.listdir(tmp_path) == ['a.pth']


def test_the_config_may_have_other_classes(tmp_path):
    source = save(published_checkpoint('dfine_hgnetv2_n'), tmp_path / 'a.pth')
    cfg = Config.fromfile(DFINE_N)
    cfg.model.bbox_head.num_classes = 3
    report = convert_checkpoint_file(source, tmp_path / 'b.pth', cfg)
    assert report.missing == report.unused == report.mismatched == []
    assert report.configs is None  # the config is known


def test_official_and_back_as_files(tmp_path):
    source = save(published_checkpoint('rtdetr_r18vd_6x'), tmp_path / 'a.pth')
    convert_checkpoint_file(source, tmp_path / 'b.pth')
    assert export_checkpoint_file(tmp_path / 'b.pth', tmp_path / 'c.pth') == 'RT-DETR'
    before = load_weights_only(source)['ema']['module']
    after = load_weights_only(tmp_path / 'c.pth')['ema']['module']
    assert set(after) == set(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    for name in ('b.pth', 'c.pth'):
        with pytest.raises((FileExistsError, ValueError), match='exists|is the input itself'):
            export_checkpoint_file(tmp_path / 'b.pth', tmp_path / name)


@pytest.mark.parametrize('to', ['official', 'transformers'])
@pytest.mark.parametrize(
    'checkpoint, model, message',
    [
        ({'state_dict': {}}, 'RTDETR', 'missing among the 0 weights|not those of the model'),
        ([torch.zeros(1)], 'RTDETR', 'this is a list'),
        (
            {'state_dict': small_weights()},
            'FasterRCNN',
            'is FasterRCNN.*name the config',
        ),
        ({'state_dict': small_weights()}, None, 'model of the config is None'),
    ],
)
def test_what_cannot_be_exported(tmp_path, to, checkpoint, model, message):
    source = save(checkpoint, tmp_path / 'a.pth')
    cfg = Config.fromfile(CONFIGS / 'rtdetr/rtdetr_r18vd_8xb2-72e_coco.py')
    if model is None:
        cfg.pop('model')
    else:
        cfg.model.type = model
    with pytest.raises(ValueError, match=message):
        export_checkpoint_file(source, tmp_path / 'b', to, config=cfg)
    assert os.listdir(tmp_path) == ['a.pth']


@pytest.mark.parametrize('folder', [False, True])
def test_new_output_is_complete_or_absent(tmp_path, folder):
    def make(path, text):
        if folder:
            path.mkdir()
            path /= 'weights'
        path.write_text(text)

    target = tmp_path / 'out'
    with pytest.raises(RuntimeError, match='stopped'):
        with new_output(target, folder=folder) as new:
            make(new, 'half')
            raise RuntimeError('stopped')
    assert os.listdir(tmp_path) == []
    for text in ('first', 'second'):
        with new_output(target, overwrite=text == 'second', folder=folder) as new:
            make(new, text)
        assert (target / 'weights' if folder else target).read_text() == text
    assert os.listdir(tmp_path) == ['out']
    with pytest.raises(FileExistsError, match='out exists'):
        with new_output(target, folder=folder):
            pass
    with pytest.raises(ValueError, match='is a folder' if folder else 'is a file'):
        with new_output(target, overwrite=True, folder=not folder):
            pass


def test_a_folder_that_holds_other_things_is_not_replaced(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.tex').touch()
    with pytest.raises(ValueError, match=r'out holds other things too \(thesis.tex\)'):
        with new_output(tmp_path / 'out', overwrite=True, folder=True) as new:
            new.mkdir()
    assert os.listdir(tmp_path / 'out') == ['thesis.tex'] and os.listdir(tmp_path) == ['out']


class Evil:
    def __reduce__(self):
        return os.system, ('touch evil_was_here',)


@pytest.mark.parametrize('zip_format', [True, False])
def test_code_is_refused_by_name(tmp_path, monkeypatch, zip_format):
    monkeypatch.chdir(tmp_path)
    torch.save({'model': Evil()}, 'a.pth', _use_new_zipfile_serialization=zip_format)
    with pytest.raises(ValueError, match=r'asks for .*(posix|nt|os)\.system.*was not loaded'):
        load_weights_only('a.pth')
    assert os.listdir(tmp_path) == ['a.pth']


def test_old_format_and_containers_load(tmp_path):
    weights = OrderedDict(small_weights())
    torch.save({'model': weights}, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    assert list(load_weights_only(tmp_path / 'a.pth')['model']) == list(weights)


def broken_files(folder):
    zipped = save({'model': small_weights()}, folder / 'zip').read_bytes()
    torch.save({'model': small_weights()}, folder / 'old', _use_new_zipfile_serialization=False)
    old = (folder / 'old').read_bytes()
    return {
        'empty': (b'', 'is empty'),
        'pointer': (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n',
            'git-lfs pointer',
        ),
        'page': (b'\n<!DOCTYPE html><html><title>Sign in</title>', 'is a web page'),
        'text': (b'Not Found', "no PyTorch checkpoint: it starts with b'Not Found'"),
        'half zip': (zipped[: len(zipped) // 2], r'\(\d+ bytes\) is damaged or truncated'),
        'half old': (old[: len(old) // 2], 'is damaged or truncated'),
        'few bytes old': (old[:5], 'is damaged or truncated'),
        'other pickle': (pickle.dumps({'model': np.float64(1.0)}), 'damaged'),
    }


def test_broken_files_say_what_they_are(tmp_path):
    for name, (content, message) in broken_files(tmp_path).items():
        path = tmp_path / f'{name}.pth'
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            load_weights_only(path)
        assert str(path) in str(caught.value), name
        # PyTorch's own message advises to switch its safety off
        assert 'weights_only' not in str(caught.value), name
    with pytest.raises(FileNotFoundError, match='no_such.pth is no file'):
        load_weights_only(tmp_path / 'no_such.pth')


def run_tool(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['convert_weights.py', *map(str, args)])
    runpy.run_path(str(ROOT / 'tools' / 'convert_weights.py'), run_name='__main__')


def test_tool(tmp_path, monkeypatch, capsys):
    source = save({'model': small_weights()}, tmp_path / 'a.pth')
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join(f'class {i}' for i in range(80)) + '\n\n')
    run_tool(monkeypatch, source, tmp_path / 'b.pth', '--classes', names)
    assert '2 tensors mapped, 1 dropped' in capsys.readouterr().out
    meta = load_weights_only(tmp_path / 'b.pth')['meta']
    assert meta['dataset_meta']['classes'][79] == 'class 79'
    with pytest.raises(SystemExit, match='error: .*b.pth exists'):
        run_tool(monkeypatch, source, tmp_path / 'b.pth')
    names.write_text('cat\ncat\n')
    with pytest.raises(SystemExit, match=r"error: .*\['cat'\] more than once.*\['person', 'bicy"):
        run_tool(monkeypatch, source, tmp_path / 'c.pth', '--classes', names)
    with pytest.raises(SystemExit, match='error: .*missing.pth is no file'):
        run_tool(monkeypatch, tmp_path / 'missing.pth', tmp_path / 'c.pth')


def test_tool_writes_published_checkpoints(tmp_path, monkeypatch, capsys):
    source = save(published_checkpoint('deim_hgnetv2_n'), tmp_path / 'a.pth')
    run_tool(monkeypatch, source, tmp_path / 'b.pth')
    out = capsys.readouterr().out
    assert 'Configs that fit: ' in out and 'deim_dfine_hgnetv2-n_8xb16-160e_coco.py' in out
    args = (tmp_path / 'b.pth', tmp_path / 'c.pth', '--to', 'official', '--config', DFINE_N)
    run_tool(monkeypatch, *args)
    assert 'names of D-FINE / DEIM-D-FINE' in capsys.readouterr().out
    assert set(load_weights_only(tmp_path / 'c.pth')) == {'model', 'ema', 'last_epoch'}
    with pytest.raises(SystemExit, match="error: .*no family 'YOLO'.*'RT-DETR'"):
        run_tool(monkeypatch, *args[:3], 'official', '--family', 'YOLO', '--overwrite')
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, *args[:2], '--family', 'RT-DETR')
    assert '--family goes with --to official' in capsys.readouterr().err
