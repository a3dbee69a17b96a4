# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Keep the model tables of the READMEs and the sizes in the metafiles true.

    python tools/model_table.py             # write the tables anew, from the metafiles
    python tools/model_table.py --measure   # first count Parameters and FLOPs into the metafiles
    python tools/model_table.py --check     # change nothing, exit with 1 where one is out of date

A table stands between the lines `<!-- models:start -->` and `<!-- models:end -->` of README.md or
configs/*/README.md, and lists every model with a COCO AP: in a folder of configs those of its
metafile.yml, elsewhere those of all of them, or of the folders that the first line names, as in
`<!-- models:start configs/deim configs/dfine -->`.
"""

import argparse
import os.path as osp
import re
import sys
from pathlib import Path
from typing import List, Optional

import yaml

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r'(<!-- models:start *(.*?) *-->\n).*?(<!-- models:end -->)', re.DOTALL)
SCHEDULE = re.compile(r'\d+xb\d+-\d+e')  # in the name of a config: GPUs x images - epochs
METHODS = {
    'deim': 'DEIM',
    'deyo': 'DEYO',
    'deyo-tiny': 'DEYO-tiny',
    'dfine': 'D-FINE',
    'dn-deformable-detr': 'DN-Deformable-DETR',
    'dn-detr': 'DN-DETR',
    'rtdetr': 'RT-DETR',
    'rtdetrv2': 'RT-DETRv2',
    'yolov8': 'YOLOv8',
}


def main(args=None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--measure', action='store_true', help='count into the metafiles first')
    parser.add_argument('--check', action='store_true', help='change nothing')
    args = parser.parse_args(args)
    changes = {}
    if args.measure:
        for metafile in sorted(root.glob('configs/*/metafile.yml')):
            changes[metafile] = measured(metafile.read_text(), root)
        if not args.check:
            write(changes)
    for readme in [root / 'README.md', *sorted(root.glob('configs/*/README.md'))]:
        if readme.is_file():
            changes[readme] = with_tables(readme, root)
    outdated = [path for path, text in changes.items() if path.read_text() != text]
    if args.check:
        for path in outdated:
            print(f'{path.relative_to(root)} is out of date: run `python tools/model_table.py`.')
        print(f'{len(changes) - len(outdated)} of {len(changes)} files are up to date.')
        return 1 if outdated else 0
    write(changes)
    return 0


def write(changes: dict) -> None:
    for path, text in changes.items():
        path.write_text(text)


def with_tables(readme: Path, root: Path) -> str:
    """The text of a README with its tables written anew."""
    text = readme.read_text()
    if text.count('<!-- models:start') != len(TABLE.findall(text)):
        raise SystemExit(
            f'error: {readme} begins a table with `<!-- models:start -->` and does not end it. Put '
            '`<!-- models:end -->` on a line below.'
        )

    def replace(match):
        folders = [root / folder for folder in match[2].split()]
        if not folders and (readme.parent / 'metafile.yml').is_file():
            folders = [readme.parent]
        folders = folders or sorted(path.parent for path in root.glob('configs/*/metafile.yml'))
        models = [model for folder in folders for model in published_models(folder)]
        return match[1] + '\n'.join(table(models, readme.parent, root)) + '\n' + match[3]

    return TABLE.sub(replace, text)


def published_models(folder: Path) -> List[dict]:
    """The models of a folder's metafile that have a COCO AP."""
    models = yaml.safe_load((folder / 'metafile.yml').read_text())['Models']
    return [model for model in models if coco_ap(model) is not None]


def coco_ap(model: dict) -> Optional[float]:
    for result in model.get('Results') or ():
        if result['Dataset'] == 'COCO':
            return result['Metrics'].get('box AP')
    return None


def table(models: List[dict], folder: Path, root: Path) -> List[str]:
    """Lines of a markdown table whose links start from ``folder``."""
    lines = ['| model | params | GFLOPs | epochs | COCO AP* | weights |', '|' + '---|' * 6]
    for model in models:
        data = model['Metadata']
        config = Path(osp.relpath(root / model['Config'], folder)).as_posix()
        cells = [
            f'[{title(model["Name"])}]({config})',
            f'{data["Parameters"] / 1e6:.2f} M',
            f'{data["FLOPs"] / 1e9:.1f}' if 'FLOPs' in data else '',
            data['Epochs'],
            coco_ap(model),
            f'[published]({model["Weights"]})' if model.get('Weights') else '',
        ]
        lines.append(f'| {" | ".join(map(str, cells))} |')
    return lines


def title(name: str) -> str:
    """The name of a config as papers write it: deim_dfine_hgnetv2-n_... -> DEIM-D-FINE-N."""
    schedule = SCHEDULE.search(name)
    words = name[: schedule.start() if schedule else None].strip('_').split('_')
    methods, backbone = [METHODS.get(word, word) for word in words[:-1]], words[-1]
    size = re.sub('hgnetv2-|yolov8-', '', backbone).replace('vd', '').replace('-dsp', '')
    text = '-'.join([*methods, size[0].upper() + size[1:]])
    text = text.replace('-dc5', '-DC5')
    if backbone.endswith('-dsp'):
        text += ', discrete sampling'
    if name.endswith('obj365-coco'):
        text += ', Objects365'
    return text


def measured(metafile: str, root: Path) -> str:
    """The text of a metafile with the sizes of its models counted anew.

    FLOPs are those at the config's ``image_hw``, with four digits; a config without, which keeps
    the aspect ratio of its images, gets none.
    """
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from deim_mmdet.model_info import MODELS, model_info

    init_default_scope('mmdet')
    for model in yaml.safe_load(metafile)['Models']:
        cfg = Config.fromfile(root / model['Config'])
        if 'image_hw' not in cfg:
            params = sum(p.numel() for p in MODELS.build(cfg.model).parameters())
            metafile = with_value(metafile, model['Name'], 'Parameters', params)
            continue
        total = model_info(cfg.model, cfg.image_hw)[-1]
        flops = int(float(f'{total.flops:.4g}'))
        metafile = with_value(metafile, model['Name'], 'Parameters', total.params)
        metafile = with_value(metafile, model['Name'], 'FLOPs', flops)
    return metafile


def with_value(metafile: str, name: str, key: str, value: int) -> str:
    """Set a value in the metadata of one model; everything else stays as it is written."""
    begin = re.search(rf'^ *- Name: {re.escape(name)}$', metafile, re.MULTILINE).end()
    following = re.compile(r'^ *- Name: ', re.MULTILINE).search(metafile, begin)
    end = following.start() if following else len(metafile)
    model = metafile[begin:end]
    model, found = re.subn(rf'^( +{key}:).*$', rf'\1 {value}', model, count=1, flags=re.MULTILINE)
    if not found:
        metadata = r'^( +)Metadata:\n'
        model = re.sub(metadata, rf'\g<0>\1  {key}: {value}\n', model, count=1, flags=re.MULTILINE)
    return metafile[:begin] + model + metafile[end:]


if __name__ == '__main__':
    sys.exit(main())
