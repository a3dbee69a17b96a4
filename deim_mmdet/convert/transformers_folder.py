# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Folders as Hugging Face `transformers` reads and writes them.

Reading and writing need the package `safetensors`, not transformers itself.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from mmengine.config import Config
from torch import Tensor

from deim_mmdet.compat.broken_files import refuse_other_content

from .class_rows import NO_CLASS, count_class_rows
from .configs import describe_configs, model_differences, model_state
from .family import PublishedForm
from .pytorch_file import load_weights_only
from .rtdetr import RTDETR
from .state_dict import revert_state_dict
from .transformers_config import (
    MODEL_TYPES,
    differences,
    points_per_level,
    preprocessor_config,
    transformers_config,
    unsupported,
)
from .transformers_rtdetr import RTDETR_TRANSFORMERS

WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')
OWN_CODE = 'modeling_deim.py'

# Names of modules in transformers 5 -> names in files, which it translates itself.
MODULE_NAMES = (
    (r'\.self_attn\.o_proj\.', '.self_attn.out_proj.'),
    (r'\.mlp\.(fc[12])\.', r'.\1.'),
    (r'(\.layers\.\d+)\.mlp\.layers\.0\.', r'\1.fc1.'),
    (r'(\.layers\.\d+)\.mlp\.layers\.1\.', r'\1.fc2.'),
    (r'\.encoder\.aifi\.', '.encoder.encoder.'),
)


def read_transformers(path: Path) -> Tuple[Dict[str, Tensor], Optional[List[str]]]:
    """Weights of a D-FINE, RT-DETR or RT-DETRv2 of transformers.

    Args:
        path (Path): Folder with ``config.json`` and weights, which may be in several files; or a
            ``.safetensors`` file.

    Returns:
        tuple[dict[str, Tensor], list[str] | None]: Weights under their published names, and the
        names of the classes if the folder has them.

    Raises:
        FileNotFoundError: A file is missing.
        ImportError: The package safetensors is missing.
        ValueError: The folder holds another model, or one that has no counterpart here; a file is
            damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return names_in_files(_load(path)), None
    config = read_config(path)
    weights = {}
    for file in _weight_files(path):
        weights.update(_load(file))
    return names_in_files(weights), _class_names(config)


def write_transformers(
    checkpoint: Mapping[str, Any], folder: Path, config: Optional[Config] = None
) -> str:
    """Write a checkpoint as a folder that transformers loads.

    With the MLPs of DEIM, which no model of transformers has, the folder holds their code too and
    is loaded with ``trust_remote_code=True``.

    Args:
        checkpoint (Mapping): MMDetection checkpoint, or its weights.
        folder (Path): New folder.
        config (Config, optional): Config of the model. Defaults to None, which is refused: weights
            do not show activations, and the config in a checkpoint is code, which is not run.

    Returns:
        str: Name of the family whose names were given.

    Raises:
        ImportError: The package safetensors is missing.
        ValueError: There is no config, transformers has no such model, or the weights are not
            those of the config.
    """
    save_file = _safetensors().save_file
    meta = checkpoint.get('meta') or {}
    weights = checkpoint.get('state_dict', checkpoint)
    if config is None:
        raise ValueError(
            'transformers needs the config of the model, which weights alone do not show: give it '
            f'(--config). {describe_configs(weights)}'
        )
    _refuse_other_weights(weights, config)
    model = _model_of_weights(config.model, weights)
    published = meta.get('published_family')
    theirs = transformers_config(
        model,
        classes=_classes_in(meta),
        model_type='rt_detr' if published in (RTDETR.name, RTDETR_TRANSFORMERS.name) else None,
    )
    weights = evaluated_layers(weights, theirs['decoder_layers'])
    family = MODEL_TYPES[theirs['model_type']][0]
    form = PublishedForm(points_per_level=tuple(points_per_level(theirs)))
    published, _ = revert_state_dict(weights, 'transformers', family, form)
    folder.mkdir(parents=True)
    # one memory for each tensor, as the format wants it
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in published.items()}
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / 'model.safetensors',
        metadata={'format': 'pt'},
    )
    _write_json(folder / 'config.json', theirs)
    # safetensors makes private files; weights are as readable as any other new file
    shutil.copymode(folder / 'config.json', folder / 'model.safetensors')
    _write_json(folder / 'preprocessor_config.json', preprocessor_config(config))
    if 'auto_map' in theirs:
        shutil.copyfile(Path(__file__).with_name(OWN_CODE), folder / OWN_CODE)
    return family


def read_config(folder: Path) -> Dict[str, Any]:
    """The ``config.json`` of a folder whose model has a counterpart here.

    Args:
        folder (Path): The folder.

    Returns:
        dict: Its content.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no JSON, or names a model that has no counterpart here.
    """
    path = Path(folder) / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'{folder} has no config.json: give a folder that `save_pretrained` wrote, or one '
            'downloaded from the hub.'
        )
    refuse_other_content(path)
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
        model_type = config.get('model_type')
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{path} is damaged: download it again. ({error})') from error
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f'{folder} holds a model of type {model_type!r}; weights can be read of '
            f'{", ".join(MODEL_TYPES)}.'
        )
    others = unsupported(config)
    if others:
        raise ValueError(
            f'{folder} holds a {model_type} with settings that no model here has: '
            f'{"; ".join(others)}.'
        )
    return config


def check_config(folder: Path, model: Mapping[str, Any]) -> None:
    """Refuse a config that computes something else with the weights of a folder.

    Args:
        folder (Path): Folder of transformers.
        model (Mapping): Config of our model, ``cfg.model``.

    Raises:
        ValueError: They differ in what weights do not show; the message has every difference.
    """
    found = differences(read_config(folder), model)
    if found:
        raise ValueError(
            f'The model of {folder} is not that of the config: {"; ".join(found)}. Take the '
            'config of that model, or change these settings.'
        )


def names_in_files(weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Weights under the names that stand in files, whatever version of transformers saved them.

    Args:
        weights (Mapping): Content of a file, or ``state_dict()`` of a model of transformers.

    Returns:
        dict[str, Tensor]: The same tensors, those of the heads without second copies.
    """
    named = {}
    for name, tensor in weights.items():
        for pattern, replacement in MODULE_NAMES:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    for name in [name for name in named if name.startswith(('class_embed.', 'bbox_embed.'))]:
        named.setdefault(f'model.decoder.{name}', named[name])
        del named[name]
    return named


def evaluated_layers(weights: Mapping[str, Tensor], num_layers: int) -> Dict[str, Tensor]:
    """Weights without the decoder layers that evaluation does not run.

    Args:
        weights (Mapping): Weights under our names.
        num_layers (int): Decoder layers to keep.

    Returns:
        dict[str, Tensor]: The others are left out.
    """
    layer = re.compile(r'decoder\.(?:layers|\w+_branches)\.(\d+)\.')
    matches = {name: layer.match(name) for name in weights}
    return {
        name: tensor
        for name, tensor in weights.items()
        if matches[name] is None or int(matches[name][1]) < num_layers
    }


def _weight_files(folder: Path) -> List[Path]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f'{name}.index.json'
        if index.is_file():
            refuse_other_content(index)
            try:
                shards = sorted(set(json.loads(index.read_text())['weight_map'].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(f'{index} is damaged: download it again. ({error!r})') from error
            # names of files beside it: an index leads nowhere else
            return [folder / Path(shard).name for shard in shards]
    raise FileNotFoundError(
        f'{folder} holds no weights: expected {" or ".join(WEIGHT_FILES)}, found '
        f'{", ".join(sorted(each.name for each in folder.iterdir()))}.'
    )


def _load(path: Path) -> Dict[str, Tensor]:
    if path.suffix != '.safetensors':
        return load_weights_only(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: download it too.')
    refuse_other_content(path)
    load_file = _safetensors().load_file
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own, for whatever is wrong with the file
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) is no safetensors file, or damaged or '
            f'truncated: download it again. ({error})'
        ) from error


def _safetensors():
    try:
        import safetensors.torch as module
    except ImportError as error:
        raise ImportError(
            'Files of transformers are read and written with the package safetensors: pip install '
            'safetensors'
        ) from error
    return module


def _class_names(config: Mapping[str, Any]) -> Optional[List[str]]:
    labels = config.get('id2label') or {}
    names = [labels[key] for key in sorted(labels, key=int)]
    if len(set(names)) < len(names) or all(re.fullmatch(r'LABEL_\d+', name) for name in names):
        return None
    return names


def _classes_in(meta: Mapping[str, Any]) -> Optional[List[str]]:
    names = (meta.get('dataset_meta') or {}).get('classes')
    if names is None:
        return None
    return [f'LABEL_{i}' if name == NO_CLASS else name for i, name in enumerate(names)]


def _refuse_other_weights(weights: Mapping[str, Tensor], config: Config) -> None:
    report = model_differences(weights, model_state(config))
    if not report.fits:
        lines = (
            f'{len(keys)} {name}, first {keys[0]}'
            for name, keys in vars(report).items()
            if name in ('missing', 'unused', 'mismatched') and keys
        )
        raise ValueError(
            f'The weights are not those of the model of the config: {"; ".join(lines)}. They must '
            'have the form that training saves (before `switch_to_deploy`). '
            f'{describe_configs(weights)}'
        )


def _model_of_weights(model: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Config with the classes of the weights; and without denoising where they have none."""
    model = {**model, 'bbox_head': {**model['bbox_head'], 'num_classes': count_class_rows(weights)}}
    if 'denoising.label_embedding.weight' not in weights:
        model['denoising'] = None
    return model


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
