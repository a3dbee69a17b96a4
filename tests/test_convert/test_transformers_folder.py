# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Folders of Hugging Face transformers, read and written without transformers."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from deim_mmdet.convert import convert_checkpoint_file, export_checkpoint_file
from deim_mmdet.convert.transformers_config import preprocessor_config, transformers_config
from deim_mmdet.convert.transformers_folder import read_transformers, write_transformers
from tests.test_peers.small_models import CASES, CLASSES, DEIM_CASES, small_config

pytest.importorskip('safetensors')

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def dfine():
    """Config and MMDetection checkpoint of a small D-FINE."""
    config = small_config(*CASES['dfine'][:2])
    meta = dict(dataset_meta=dict(classes=CLASSES))
    return config, dict(meta=meta, state_dict=MODELS.build(config.model).state_dict())


@pytest.fixture
def folder(dfine, tmp_path):
    """That model as a folder of transformers."""
    write_transformers(dfine[1], tmp_path / 'folder', dfine[0])
    return tmp_path / 'folder'


def test_files_of_a_folder(dfine, folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ['config.json', 'model.safetensors', 'preprocessor_config.json']
    assert len({(folder / name).stat().st_mode for name in names}) == 1
    config = json.loads((folder / 'config.json').read_text())
    assert config['model_type'] == 'd_fine'
    assert config['architectures'] == ['DFineForObjectDetection']
    assert list(config['id2label'].values()) == list(CLASSES)
    assert config['reg_scale'] == 8.0
    assert read_transformers(folder)[1] == list(CLASSES)


def test_config_of_a_published_size():
    config = Config.fromfile(ROOT / 'configs/dfine/dfine_hgnetv2-n_8xb16-160e_coco.py')
    written = transformers_config(config.model)
    expected = dict(
        d_model=128,
        encoder_hidden_dim=128,
        encoder_in_channels=[512, 1024],
        encode_proj_layers=[1],
        feat_strides=[16, 32],
        hidden_expansion=0.34,
        depth_mult=0.5,
        decoder_layers=3,
        decoder_n_points=[6, 6],
        decoder_activation_function='relu',
        num_denoising=100,
    )
    assert {name: written[name] for name in expected} == expected
    backbone = written['backbone_config']
    assert backbone['out_indices'] == [3, 4] and backbone['use_learnable_affine_block']
    preprocessor = preprocessor_config(config)
    assert preprocessor['size'] == dict(height=640, width=640)
    assert preprocessor['do_rescale'] and not preprocessor['do_normalize']


def test_layers_behind_the_evaluated_one_are_left_out():
    config = small_config('rtdetrv2_r50vd', CASES['rtdetrv2'][1])
    config.model.decoder.update(num_layers=3, eval_layer=1)
    assert transformers_config(config.model)['decoder_layers'] == 2


def test_code_comes_with_the_mlps_of_deim(tmp_path):
    config = small_config(*DEIM_CASES['deim-rtdetrv2'])
    weights = MODELS.build(config.model).state_dict()
    write_transformers(weights, tmp_path / 'folder', config)
    written = json.loads((tmp_path / 'folder/config.json').read_text())
    assert written['model_type'] == 'deim_rt_detr_v2'
    assert written['query_position_dims'] == [48, 40]
    assert (
        'class DEIMRTDetrV2ForObjectDetection' in (tmp_path / 'folder/modeling_deim.py').read_text()
    )


def test_weights_of_other_classes_and_without_denoising(dfine, tmp_path):
    config, checkpoint = dfine
    weights = {
        name: tensor
        for name, tensor in checkpoint['state_dict'].items()
        if not name.startswith('denoising.')
    }
    config = copy.deepcopy(config)
    config.model.bbox_head.num_classes = 80  # the weights have 7
    write_transformers(weights, tmp_path / 'folder', config)
    written = json.loads((tmp_path / 'folder/config.json').read_text())
    assert written['num_denoising'] == 0
    assert list(written['id2label'].values()) == [f'LABEL_{i}' for i in range(7)]
    assert read_transformers(tmp_path / 'folder')[1] is None  # no names


def test_there_and_back_through_files(dfine, tmp_path):
    config, checkpoint = dfine
    ours = tmp_path / 'ours.pth'
    torch.save(checkpoint, ours)
    export_checkpoint_file(ours, tmp_path / 'folder', 'transformers', config=config)
    with pytest.raises(FileExistsError, match='exists'):
        export_checkpoint_file(ours, tmp_path / 'folder', 'transformers', config=config)
    convert_checkpoint_file(tmp_path / 'folder', tmp_path / 'again.pth', config)
    again = torch.load(tmp_path / 'again.pth', weights_only=True)
    assert again['meta']['dataset_meta']['classes'] == CLASSES
    assert again['state_dict'].keys() == checkpoint['state_dict'].keys()
    for name, tensor in checkpoint['state_dict'].items():
        assert torch.equal(again['state_dict'][name], tensor), name
    # a converted checkpoint is as good as a trained one
    official = tmp_path / 'official.pth'
    family = export_checkpoint_file(tmp_path / 'again.pth', official, config=config)
    assert family == 'D-FINE / DEIM-D-FINE'


def test_what_weights_do_not_show_is_compared(folder, dfine, tmp_path):
    other = copy.deepcopy(dfine[0])
    other.model.neck.num_heads = 4
    other.model.decoder.act = 'silu'
    other.model.query_selection.act = 'silu'
    message = (
        "encoder_attention_heads: 8 there, 4 here; decoder_activation_function: 'relu' there, "
        "'silu' here; mlp_activation_function"
    )
    with pytest.raises(ValueError, match=message):
        convert_checkpoint_file(folder, tmp_path / 'ours.pth', other)
    assert not (tmp_path / 'ours.pth').exists()


def test_bare_safetensors_file(folder):
    weights, classes = read_transformers(folder / 'model.safetensors')
    assert classes is None
    assert weights.keys() == read_transformers(folder)[0].keys()


def test_pytorch_file(folder):
    weights, _ = read_transformers(folder)
    (folder / 'model.safetensors').unlink()
    torch.save(weights, folder / 'pytorch_model.bin')
    assert read_transformers(folder)[0].keys() == weights.keys()


def change(**values):
    def apply(folder):
        path = folder / 'config.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncate(folder):
    path = folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-1000])


def lead_elsewhere(folder):
    (folder / 'model.safetensors').unlink()
    index = dict(weight_map={'model.decoder.up': '../../model-00002-of-00002.safetensors'})
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


@pytest.mark.parametrize(
    ('damage', 'error', 'message'),
    [
        # no weights
        (lambda f: (f / 'model.safetensors').unlink(), FileNotFoundError, 'found config.json'),
        # no config
        (lambda f: (f / 'config.json').unlink(), FileNotFoundError, 'has no config.json'),
        # a part of several is missing; parts lie beside the index, whatever it says
        (lead_elsewhere, FileNotFoundError, 'folder/model-00002-of-00002.safetensors is missing'),
        # an index without content
        (
            lambda f: (f / 'model.safetensors').rename(f / 'model.safetensors.index.json'),
            ValueError,
            'index.json is damaged',
        ),
        # the end is missing
        (truncate, ValueError, r'\(\d+ bytes\) is no safetensors file, or damaged or truncated'),
        # nothing but the pointer of git-lfs
        (
            write('model.safetensors', b'version https://git-lfs.github.com/spec/v1\n'),
            ValueError,
            'git lfs pull',
        ),
        (write('config.json', b'version https://git-lfs.github.com/'), ValueError, 'git lfs pull'),
        # a page of a web site
        (write('model.safetensors', b'<!DOCTYPE html><html>'), ValueError, 'web page'),
        # something else
        (write('model.safetensors', b'PK\x03\x04 something else'), ValueError, 'no safetensors'),
        (write('config.json', b'[1, 2]'), ValueError, 'config.json is damaged'),
        # another model
        (change(model_type='yolos'), ValueError, "type 'yolos'; weights can be read of d_fine, rt"),
        # settings that no model here has
        (change(learn_initial_query=True), ValueError, 'learn_initial_query = True'),
        (change(eval_idx=0), ValueError, 'eval_idx = 0'),
        (change(num_feature_levels=4), ValueError, 'num_feature_levels = 4'),
        (change(backbone_config=dict(model_type='resnet')), ValueError, "'resnet'"),
    ],
)
def test_bad_folders(folder, damage, error, message):
    damage(folder)
    with pytest.raises(error, match=message):
        read_transformers(folder)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(query_selection=dict(act='silu')), 'One activation in both'),
        (dict(neck=dict(block_cfg=dict(type='CSPRepLayer'))), 'RepNCSPELAN4'),
        (dict(neck=dict(act_cfg=dict(type='Mish'))), 'Mish has no name'),
        (dict(backbone=dict(_delete_=True, type='ResNet', depth=18)), 'backbone ResNet'),
        (dict(type='DINO'), 'DINO'),
    ],
)
def test_models_that_transformers_has_not(dfine, changes, message):
    config = copy.deepcopy(dfine[0])
    config.merge_from_dict(dict(model=changes))
    with pytest.raises(ValueError, match=message):
        transformers_config(config.model)


def test_first_version_has_no_other_mlps():
    """`rt_detr` has the query positions of RT-DETR built in; so has ours for DEIM in `rt_detr_v2`
    alone."""
    config = small_config(*DEIM_CASES['deim-rtdetrv2'])
    with pytest.raises(ValueError, match=r'query_pos_dims = \(48, 40\).*rt_detr of transformers'):
        transformers_config(config.model, model_type='rt_detr')


def test_weights_of_another_model(dfine, tmp_path):
    config, checkpoint = dfine
    weights = dict(checkpoint['state_dict'])
    del weights['decoder.layers.0.norm1.bias']
    with pytest.raises(ValueError, match=r'1 missing, first decoder.layers.0.norm1.bias'):
        write_transformers(weights, tmp_path / 'folder', config)
    with pytest.raises(ValueError, match='give it .--config.*the closest'):
        write_transformers(weights, tmp_path / 'folder')
    assert not (tmp_path / 'folder').exists()
