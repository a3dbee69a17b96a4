# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Does denoising help? Trains each config with its denoising queries and without, and compares.

Both begin with the same weights and see the same images in the same order, for the same number of
epochs. After every epoch AP is measured, and the share of objects that are matched with another
query than an epoch ago (MatchingStabilityHook).

    python tools/benchmark_denoising.py --configs CONFIG --seeds 0 1

Everything is written to a new folder, work_dirs/denoising (work_dirs/denoising-2, ... when it is
taken): table.md, results.json, and for each config a picture of both curves. It runs on a GPU if
there is one.
"""

import argparse
import copy
import json
import math
import time
import warnings
from pathlib import Path
from typing import Dict, List

import torch
from demo import (
    build_data,
    claim_folder,
    describe_machine,
    quiet_console,
    say,
    write_atomically,
)
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed

from deim_mmdet.engine import MatchingStabilityHook
from deim_mmdet.engine.recipe import find_hook, set_epochs
from deim_mmdet.engine.same_conditions_hook import SameConditionsHook
from deim_mmdet.machine import versions
from deim_mmdet.visualization import plot_matching_stability

VARIANTS = {'with denoising': True, 'without': False}


def main(args=None) -> None:
    args = parse_args(args)
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    torch.set_num_threads(args.threads)
    configs = {Path(path).stem: load_config(path, args) for path in args.configs}
    out = claim_folder(Path(args.work_dir))
    results = []
    for name, cfg in configs.items():
        build_data(cfg)
        for seed in args.seeds:
            results += compare(name, cfg, seed, out / f'{name}_seed-{seed}')
            write_results(results, out)  # what is finished is kept if the next run is stopped
    say((out / 'table.md').read_text())
    say(f'Written to {out}: table.md, results.json, ' + ', '.join(f'{x}.png' for x in configs))


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--configs', nargs='+', required=True, help='configs with model.denoising')
    parser.add_argument('--epochs', type=int, help='length of the runs instead of that of a config')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='one pair of runs each')
    parser.add_argument('--work-dir', default='work_dirs/denoising', help='folder of the results')
    parser.add_argument('--threads', type=int, default=1, help='threads that train')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='changes to the configs'
    )
    return parser.parse_args(args)


def load_config(path: str, args) -> Config:
    cfg = Config.fromfile(path)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if not cfg.model.get('denoising'):
        raise SystemExit(
            f'error: {path} has no model.denoising, so there is nothing to compare; name a config '
            'that has denoising queries, such as those of configs/dn_detr or configs/deim.'
        )
    if args.epochs:
        cfg = set_epochs(cfg, args.epochs)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    cfg.train_cfg.val_interval = cfg.train_cfg.val_begin = 1
    return cfg


def compare(name: str, cfg: Config, seed: int, folder: Path) -> List[dict]:
    """A pair of runs."""
    set_random_seed(seed)
    model = MODELS.build(copy.deepcopy(cfg.model))  # some of mmdet's detectors change it
    model.init_weights()
    pair = []
    for variant, has_denoising in VARIANTS.items():
        say(f'{name}, seed {seed}, {variant}')
        own = Config(cfg.to_dict())
        if not has_denoising:
            own.model.denoising = None
        own.randomness = dict(seed=seed)  # of the order of the images, and of worker processes
        own.work_dir = str(folder / variant.replace(' ', '_'))
        own.experiment_name = own.visualizer.name = f'{name}_{seed}_{variant}'
        conditions = SameConditionsHook(seed, None if cfg.get('load_from') else model.state_dict())
        result = train(own, conditions)
        pair.append(dict(config=name, seed=seed, variant=variant, **result))
    first, second = (result['images_crc32'] for result in pair)
    if first != second:
        raise RuntimeError(
            f'the two runs of seed {seed} did not see the same images in the same order, so they '
            'cannot be compared; a transform draws from a random source that has no seed'
        )
    return pair


def train(cfg: Config, conditions: SameConditionsHook) -> dict:
    wanted = ('MatchingStabilityHook', 'RichProgressHook')
    added = [dict(type=name) for name in wanted if find_hook(cfg, name) is None]
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *added]
    start = time.monotonic()
    with quiet_console():
        runner = Runner.from_cfg(cfg)
        runner.register_hook(conditions)
        runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, MatchingStabilityHook))
    instability = {entry['epoch']: entry for entry in hook.history}
    epochs = range(1, runner.max_epochs + 1)
    curves = {
        key: [instability.get(epoch, {}).get(key) for epoch in epochs]
        for key in ('instability', 'published_instability')
    }
    for key, metric in (('AP', 'bbox_mAP'), ('AP50', 'bbox_mAP_50')):
        values, _ = runner.message_hub.get_scalar(f'val/coco/{metric}').data
        curves[key] = values.tolist()
    return dict(
        epochs=list(epochs),
        **curves,
        seconds=round(time.monotonic() - start, 1),
        parameters=sum(p.numel() for p in runner.model.parameters()),
        images_crc32=conditions.images_crc32,
    )


def write_results(results: List[dict], out: Path) -> None:
    tables = []
    for name in dict.fromkeys(result['config'] for result in results):
        runs = {
            variant: [r for r in results if (r['config'], r['variant']) == (name, variant)]
            for variant in VARIANTS
        }
        seeds = sorted({r['seed'] for r in results if r['config'] == name})
        tables.append(markdown_table(name, runs, seeds))
        epochs = runs['without'][0]['epochs']
        curves = [
            {variant: mean_curve(of_variant, key) for variant, of_variant in runs.items()}
            for key in ('AP', 'instability')
        ]
        title = f'{name}, {describe_seeds(seeds)}'
        write_atomically(
            out / f'{name}.png',
            lambda path, e=epochs, c=curves, t=title: plot_matching_stability(e, *c, path, t),
        )
    text = '\n\n'.join(tables) + '\n'
    write_atomically(out / 'table.md', lambda path: Path(path).write_text(text))
    content = json.dumps(
        dict(results=results, machine=describe_machine(), versions=versions()), indent=1
    )
    write_atomically(out / 'results.json', lambda path: Path(path).write_text(content))


def markdown_table(name: str, runs: Dict[str, List[dict]], seeds: List[int]) -> str:
    """AP and instability per epoch, means over the seeds; below, each seed's last AP."""
    columns = [
        (f'{title} {variant}', mean_curve(of_variant, key))
        for key, title in (('AP', 'AP'), ('instability', 'instability'))
        for variant, of_variant in runs.items()
    ]
    lines = [
        f'{name}, {describe_seeds(seeds)}',
        '',
        '| epoch | ' + ' | '.join(title for title, _ in columns) + ' |',
        '|---:' * (len(columns) + 1) + '|',
    ]
    for i, epoch in enumerate(runs['without'][0]['epochs']):
        values = ('' if math.isnan(curve[i]) else f'{curve[i]:.3f}' for _, curve in columns)
        lines.append(f'| {epoch} | ' + ' | '.join(values) + ' |')
    for variant, of_variant in runs.items():
        last = ', '.join(f'{run["AP"][-1]:.3f} (seed {run["seed"]})' for run in of_variant)
        lines += ['', f'Last AP {variant}: {last}']
    return '\n'.join(lines)


def mean_curve(runs: List[dict], key: str) -> List[float]:
    """Mean over runs, epoch by epoch; NaN where there is no value."""
    return [
        math.nan if None in values else sum(values) / len(values)
        for values in zip(*(run[key] for run in runs))
    ]


def describe_seeds(seeds: List[int]) -> str:
    return f'seed {seeds[0]}' if len(seeds) == 1 else f'mean of {len(seeds)} seeds'


if __name__ == '__main__':
    main()
