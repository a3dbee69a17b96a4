# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The `config.json` and `preprocessor_config.json` of `transformers` for a model of this package,
and what of theirs this package has no model for.
"""

import inspect
from typing import Any, Dict, List, Mapping, Optional, Sequence

from mmdet.registry import MODELS

from deim_mmdet.models.backbones.hgnetv2 import SIZES
from deim_mmdet.models.backbones.presnet import DEPTHS

from .mmdet_checkpoint import check_class_names

# model_type -> (name of the table of its weights, class)
MODEL_TYPES = {
    'd_fine': ('D-FINE of transformers', 'DFineForObjectDetection'),
    'rt_detr': ('RT-DETR of transformers', 'RTDetrForObjectDetection'),
    'rt_detr_v2': ('RT-DETRv2 of transformers', 'RTDetrV2ForObjectDetection'),
    # in modeling_deim.py
    'deim_d_fine': ('D-FINE of transformers', 'DEIMDFineForObjectDetection'),
    'deim_rt_detr_v2': ('RT-DETRv2 of transformers', 'DEIMRTDetrV2ForObjectDetection'),
}
ACTIVATIONS = {'GELU': 'gelu', 'ReLU': 'relu', 'SiLU': 'silu', 'Swish': 'silu'}
RESAMPLE = {'nearest': 0, 'lanczos': 1, 'bilinear': 2, 'bicubic': 3}  # Pillow's numbers

# What a field of theirs is when it is left out, and the only value of it that a model here has.
FIXED = {
    'eval_size': None,
    'normalize_before': False,
    'learn_initial_query': False,
    'with_box_refine': True,
    'layer_scale': 1.0,
    'layer_norm_eps': 1e-5,
    'batch_norm_eps': 1e-5,
    'decoder_offset_scale': 0.5,
    'top_prob_values': 4,
    'lqe_hidden_dim': 64,
    'lqe_layers': 2,
}

# What weights do not show: field -> what it is when it is left out.
COMPARED = {
    'encoder_attention_heads': 8,
    'decoder_attention_heads': 8,
    'encode_proj_layers': [2],
    'positional_encoding_temperature': 10000,
    'encoder_activation_function': 'gelu',
    'activation_function': 'silu',
    'decoder_activation_function': 'relu',
    'mlp_activation_function': 'relu',
    'decoder_method': 'default',
}


def transformers_config(
    model: Mapping[str, Any],
    classes: Optional[Sequence[str]] = None,
    model_type: Optional[str] = None,
) -> Dict[str, Any]:
    """The `config.json` of a model.

    Args:
        model (Mapping): Config of the model, ``cfg.model``.
        classes (Sequence[str], optional): Names of the classes. Defaults to None: 'LABEL_0', ...,
            as transformers calls them.
        model_type (str, optional): 'rt_detr' or 'rt_detr_v2' for an RT-DETR, which is the same
            network in both. Defaults to None: 'rt_detr_v2'.

    Returns:
        dict: What stands in the file.

    Raises:
        ValueError: transformers has no such model, or the number of ``classes`` is not that of
            the model.
    """
    if model['type'] not in ('DFINE', 'RTDETR'):
        raise ValueError(
            f'There is no way to write a {model["type"]} for transformers: only DFINE and RTDETR '
            'have a counterpart there that this package knows.'
        )
    backbone, neck = _arguments(model['backbone']), _arguments(model['neck'])
    decoder, head = _arguments(model['decoder']), _arguments(model['bbox_head'])
    config = {
        'architectures': None,
        'model_type': model_type or ('d_fine' if model['type'] == 'DFINE' else 'rt_detr_v2'),
        'is_encoder_decoder': True,
        'torch_dtype': 'float32',
        **_labels(classes, head['num_classes']),
        'backbone_config': _backbone(backbone),
        'freeze_backbone_batch_norms': bool(backbone['freeze_norm']),
        'feat_strides': _strides(backbone),
        **_encoder(neck),
        **_decoder(decoder, neck),
        **_queries(model),
    }
    config.update(_dfine(neck, decoder) if model['type'] == 'DFINE' else _rtdetr(neck, decoder))
    if config['model_type'] == 'rt_detr' and config['decoder_method'] == 'discrete':
        raise ValueError("Discrete sampling exists in 'rt_detr_v2' alone: leave out model_type.")
    _use_own_mlps(config, model, decoder)
    config['architectures'] = [MODEL_TYPES[config['model_type']][1]]
    return config


def preprocessor_config(cfg: Mapping[str, Any]) -> Dict[str, Any]:
    """The `preprocessor_config.json` of a config: resize to the size of its test pipeline.

    Args:
        cfg (Mapping): Whole config, or one with ``model`` alone: then 640x640 pixels.
    """
    means = cfg['model'].get('data_preprocessor', {})
    mean, std = means.get('mean', [0.0] * 3), means.get('std', [255.0] * 3)
    width, height, resample = 640, 640, 'bilinear'
    for step in cfg.get('test_pipeline', ()):
        if step['type'] == 'Resize':
            width, height = step['scale']
            resample = step.get('interpolation', 'bilinear')
    return {
        'image_processor_type': 'RTDetrImageProcessor',
        'format': 'coco_detection',
        'do_resize': True,
        'size': {'height': height, 'width': width},
        'resample': RESAMPLE.get(resample, RESAMPLE['bilinear']),
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': any(mean) or any(value != 255 for value in std),
        'image_mean': [value / 255 for value in mean],
        'image_std': [value / 255 for value in std],
        'do_pad': False,
        'do_convert_annotations': True,
    }


def unsupported(config: Mapping[str, Any]) -> List[str]:
    """Settings of a `config.json` of theirs that no model of this package has, one line each."""
    lines = [
        f'{name} = {config[name]!r} (only {only!r})'
        for name, only in FIXED.items()
        if config.get(name, only) != only
    ]
    last, layer = config.get('decoder_layers', 6) - 1, config.get('eval_idx', -1)
    if layer not in (-1, last):
        lines.append(f'eval_idx = {layer} (only -1, the last layer)')
    kind = (config.get('backbone_config') or {}).get('model_type')
    if kind not in (None, 'hgnet_v2', 'rt_detr_resnet'):
        lines.append(f"backbone_config.model_type = {kind!r} (only 'hgnet_v2', 'rt_detr_resnet')")
    levels = len(config.get('decoder_in_channels', (0, 0, 0)))
    if config.get('num_feature_levels', 3) != levels:
        lines.append(f'num_feature_levels = {config["num_feature_levels"]} (only {levels})')
    return lines


def differences(theirs: Mapping[str, Any], model: Mapping[str, Any]) -> List[str]:
    """Settings in which a `config.json` of theirs and a model of ours differ, one line each.

    Weights do not show them: activations, heads, sampling points.

    Args:
        theirs (Mapping): Content of the file.
        model (Mapping): Config of our model, ``cfg.model``.
    """
    plain = theirs['model_type'].replace('deim_', '')
    ours = transformers_config(model, model_type=plain)
    pairs = [
        (name, theirs.get(name, default), ours.get(name, default))
        for name, default in COMPARED.items()
    ]
    pairs.append(('decoder_n_points', points_per_level(theirs), points_per_level(ours)))
    return [
        f'{name}: {left!r} there, {right!r} here' for name, left, right in pairs if left != right
    ]


def points_per_level(config: Mapping[str, Any]) -> List[int]:
    """Sampling points of each level of a `config.json`, fine to coarse."""
    points = config.get('decoder_n_points', 4)
    return [points] * config.get('num_feature_levels', 3) if isinstance(points, int) else points


def _labels(classes: Optional[Sequence[str]], num_classes: int) -> Dict[str, Any]:
    if classes is None:
        classes = [f'LABEL_{i}' for i in range(num_classes)]
    check_class_names(classes, num_classes)
    return {
        'id2label': {str(i): name for i, name in enumerate(classes)},
        'label2id': {name: i for i, name in enumerate(classes)},
    }


def _backbone(backbone: Dict[str, Any]) -> Dict[str, Any]:
    if backbone['type'] == 'HGNetv2':
        config = _hgnetv2(backbone)
    elif backbone['type'] == 'PResNet':
        config = _presnet(backbone)
    else:
        raise ValueError(
            f'There is no way to write the backbone {backbone["type"]} for transformers: only '
            'HGNetv2 and PResNet.'
        )
    return {
        **config,
        'num_channels': backbone['in_channels'],
        'hidden_act': _activation(backbone['act_cfg']),
        'out_features': [f'stage{i + 1}' for i in backbone['out_indices']],
        'out_indices': [i + 1 for i in backbone['out_indices']],
    }


def _hgnetv2(backbone: Dict[str, Any]) -> Dict[str, Any]:
    size = SIZES[backbone['name']]
    stem = list(backbone['stem_channels'] or size['stem'])
    mid, out, blocks, layers, kernel, downsample, light = zip(
        *(backbone['stages'] or size['stages'])
    )
    use_lab = size['lab'] if backbone['use_lab'] is None else backbone['use_lab']
    return {
        'model_type': 'hgnet_v2',
        'embedding_size': stem[-1],
        'hidden_sizes': list(out),
        'depths': list(blocks),
        'stem_channels': [backbone['in_channels'], *stem],
        'stem_strides': [2, 1, 1, 2, 1],
        'stage_in_channels': [stem[-1], *out[:-1]],
        'stage_mid_channels': list(mid),
        'stage_out_channels': list(out),
        'stage_num_blocks': list(blocks),
        'stage_downsample': [bool(each) for each in downsample],
        'stage_downsample_strides': [2] * len(out),
        'stage_light_block': [bool(each) for each in light],
        'stage_kernel_size': list(kernel),
        'stage_numb_of_layers': list(layers),
        'use_learnable_affine_block': bool(use_lab),
    }


def _presnet(backbone: Dict[str, Any]) -> Dict[str, Any]:
    bottleneck, depths = DEPTHS[backbone['depth']]
    return {
        'model_type': 'rt_detr_resnet',
        'embedding_size': 64,
        'hidden_sizes': [64 * 2**i * (4 if bottleneck else 1) for i in range(4)],
        'depths': list(depths),
        'layer_type': 'bottleneck' if bottleneck else 'basic',
        'downsample_in_first_stage': False,
        'downsample_in_bottleneck': False,
    }


def _strides(backbone: Dict[str, Any]) -> List[int]:
    strides = [4 * 2**i for i in range(4)]
    if backbone['type'] == 'HGNetv2':
        downsample = [row[5] for row in backbone['stages'] or SIZES[backbone['name']]['stages']]
        strides = [4 * 2 ** sum(map(bool, downsample[: i + 1])) for i in range(len(downsample))]
    return [strides[i] for i in backbone['out_indices']]


def _encoder(neck: Dict[str, Any]) -> Dict[str, Any]:
    num_levels = len(neck['in_channels'])
    return {
        'encoder_hidden_dim': neck['embed_dims'],
        'encoder_in_channels': list(neck['in_channels']),
        'encoder_layers': neck['num_encoder_layers'],
        'encoder_ffn_dim': neck['ffn_channels'],
        'encoder_attention_heads': neck['num_heads'],
        'encode_proj_layers': [level % num_levels for level in neck['encoder_levels']],
        'positional_encoding_temperature': int(neck['temperature']),
        'encoder_activation_function': _activation(neck['ffn_act_cfg']),
        'activation_function': _activation(neck['act_cfg']),
        'hidden_expansion': float(neck['expansion']),
        'dropout': neck['dropout'],
        'eval_size': None,
        'normalize_before': False,
    }


def _decoder(decoder: Dict[str, Any], neck: Dict[str, Any]) -> Dict[str, Any]:
    num_levels = len(neck['in_channels'])
    return {
        'd_model': decoder['embed_dims'],
        'decoder_in_channels': [neck['embed_dims']] * num_levels,
        'num_feature_levels': num_levels,
        'decoder_ffn_dim': decoder['ffn_channels'],
        # the layers behind it only help to train
        'decoder_layers': decoder['eval_layer'] % decoder['num_layers'] + 1,
        'decoder_attention_heads': decoder['num_heads'],
        'decoder_activation_function': decoder['act'],
        'attention_dropout': decoder['dropout'],
        'anchor_image_size': None,
        'learn_initial_query': False,
        'with_box_refine': True,
    }


def _queries(model: Mapping[str, Any]) -> Dict[str, Any]:
    config = {'num_queries': _arguments(model)['num_queries'], 'num_denoising': 0}
    if model.get('denoising') is not None:
        denoising = _arguments(model['denoising'])
        config.update(
            num_denoising=denoising['num_queries'],
            label_noise_ratio=denoising['label_noise'],
            box_noise_scale=denoising['box_noise'],
        )
    return config


def _dfine(neck: Dict[str, Any], decoder: Dict[str, Any]) -> Dict[str, Any]:
    _expect(neck, block_cfg='RepNCSPELAN4', downsample_cfg='SeparableDownsample')
    _expect(neck, lateral_act_cfg=None)
    return {
        'depth_mult': float(neck['depth_mult']),
        'decoder_n_points': list(decoder['points_per_level']),
        'decoder_offset_scale': 0.5,
        'decoder_method': 'default',
        'max_num_bins': decoder['reg_max'],
        'reg_scale': float(decoder['reg_scale']),
        'up': float(decoder['up']),
        'eval_idx': -1,
        'layer_scale': 1.0,
        'top_prob_values': 4,
        'lqe_hidden_dim': 64,
        'lqe_layers': 2,
    }


def _rtdetr(neck: Dict[str, Any], decoder: Dict[str, Any]) -> Dict[str, Any]:
    _expect(neck, block_cfg='CSPRepLayer', downsample_cfg='ConvDownsample')
    _expect(neck, lateral_act_cfg=neck['act_cfg']['type'])
    points = set(decoder['points_per_level'])
    if len(points) != 1 or round(3 * neck['depth_mult']) != 3:
        raise ValueError(
            f'points_per_level = {tuple(decoder["points_per_level"])} and depth_mult = '
            f'{neck["depth_mult"]}: the RT-DETR of transformers has the same number of points on '
            'each level and three blocks in a row (depth_mult = 1).'
        )
    return {
        'decoder_n_points': points.pop(),
        'decoder_n_levels': len(neck['in_channels']),
        'decoder_offset_scale': 0.5,
        'decoder_method': 'discrete' if decoder['sampling'] == 'discrete' else 'default',
    }


def _use_own_mlps(
    config: Dict[str, Any], model: Mapping[str, Any], decoder: Dict[str, Any]
) -> None:
    selection = (model.get('query_selection') or {}).get('act', 'relu')
    native = (2 * decoder['embed_dims'],)
    query_dims = tuple(decoder.get('query_pos_dims', native))
    if (selection, decoder['act'], query_dims) == ('relu', 'relu', native):
        return
    own = {'d_fine': 'DEIMDFine', 'rt_detr_v2': 'DEIMRTDetrV2'}.get(config['model_type'])
    if own is None or selection != decoder['act']:
        raise ValueError(
            f'decoder.act = {decoder["act"]!r}, query_selection.act = {selection!r}, '
            f'query_pos_dims = {query_dims}: the {config["model_type"]} of transformers has relu '
            f'and {native} built in. One activation in both, and model_type left out, can be '
            'written with the code of DEIM in the folder.'
        )
    config.update(
        model_type=f'deim_{config["model_type"]}',
        mlp_activation_function=decoder['act'],
        query_position_dims=list(query_dims),
        auto_map={
            'AutoConfig': f'modeling_deim.{own}Config',
            'AutoModelForObjectDetection': f'modeling_deim.{own}ForObjectDetection',
        },
    )


def _expect(neck: Dict[str, Any], **types: Optional[str]) -> None:
    for name, expected in types.items():
        found = (neck[name] or {}).get('type')
        if found != expected:
            raise ValueError(
                f'neck.{name} is {found}, the model of transformers has {expected}: it cannot be '
                'written for transformers.'
            )


def _activation(cfg: Mapping[str, Any]) -> str:
    if cfg['type'] not in ACTIVATIONS:
        raise ValueError(
            f'{cfg["type"]} has no name in transformers that this package knows: one of '
            f'{", ".join(ACTIVATIONS)} has.'
        )
    return ACTIVATIONS[cfg['type']]


def _arguments(cfg: Mapping[str, Any]) -> Dict[str, Any]:
    """All arguments of a registered class: those of the config, else its defaults."""
    arguments = {}
    for cls in reversed(MODELS.get(cfg['type']).__mro__):
        if '__init__' in vars(cls):
            for name, parameter in inspect.signature(cls.__init__).parameters.items():
                if parameter.default is not parameter.empty:
                    arguments[name] = parameter.default
    return {**arguments, **cfg}
