# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
import re
import shutil
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits
from deim_mmdet.engine import MatchingStabilityHook
from deim_mmdet.engine.matching_stability_hook import (
    FixedImages,
    _preserved_random_state,
    instability,
    published_instability,
)

CONFIG = Path(__file__).parents[2] / 'configs/dn_detr/dn-deformable-detr_hgnetv2-atto_digits.py'
OPTIONS = dict(num_train=8, num_val=5, image_hw=(64, 64), digit_size=(16, 40), objects=(0, 3))


@pytest.mark.parametrize(
    'previous, current, counts, share, published',
    [
        ([], [], [0, 0], 0, 0),  # no objects
        ([3, 5, 1], [3, 5, 1], [2, 1], 0, 0),  # nothing changes
        ([3, 5, 1], [3, 4, 1], [2, 1], 1 / 3, 2 / 2),  # 5 loses its object, 4 gets it
        ([3, 5, 1], [5, 3, 1], [2, 1], 2 / 3, 2 / 2),  # 3 and 5 change places: two queries
        ([3, 5, 1], [5, 7, 1], [2, 1], 2 / 3, 3 / 2),  # 3 has none, 5 another, 7 a new one
        ([3, 5, 3], [5, 3, 5], [2, 1], 1, 4 / 2),  # a 3 of the second image is another query
        ([3, -1], [3, 2], [2], 1 / 2, 1),  # 2 is found for an object that had none
        ([-1, -1], [-1, -1], [2], 0, 0),  # still none
        ([3, 5], [4, 6], [0, 2, 0], 1, 4 / 3),  # images without objects count as images
    ],
)
def test_instability(previous, current, counts, share, published):
    previous, current = (torch.tensor(x, dtype=torch.long) for x in (previous, current))
    assert instability(previous, current) == pytest.approx(share)
    assert published_instability(previous, current, counts) == pytest.approx(published)


def test_matchings_of_other_objects_cannot_be_compared():
    for measure in (instability, lambda *args: published_instability(*args, counts=[3])):
        with pytest.raises(ValueError, match='same objects, but got 2 and 3'):
            measure(torch.tensor([1, 2]), torch.tensor([1, 2, 3]))


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return str(make_digits(tmp_path_factory.mktemp('digits') / 'set', DigitsOptions(**OPTIONS)))


def make_config(work_dir, data_root: str) -> Config:
    """A small DN-Deformable-DETR, with noise that is drawn anew in every step, and an average."""
    cfg = Config.fromfile(CONFIG)
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.batch_size = 4 if split == 'train' else 2
        loader.dataset.update(data_root=data_root, options=OPTIONS)
        loader.dataset.pipeline[2].scale = (64, 64)
    cfg.val_evaluator.ann_file = f'{data_root}/annotations/val.json'
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.train_cfg.update(max_epochs=3, val_interval=10)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.custom_hooks = [
        dict(type='MatchingStabilityHook'),
        dict(type='WarmupEMAHook', decay=0.9, max_window_share=1.0),
    ]
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(work_dir)
    cfg.log_level = 'INFO'
    # one of each name in a process
    cfg.experiment_name = cfg.visualizer.name = f'stability_{work_dir.name}'
    return cfg


def train(cfg: Config):
    runner = Runner.from_cfg(cfg)
    runner.train()
    hook = next((h for h in runner.hooks if isinstance(h, MatchingStabilityHook)), None)
    return runner, hook


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_root):
    """A run of three epochs with the hook."""
    work_dir = tmp_path_factory.mktemp('finished')
    return (*train(make_config(work_dir, data_root)), work_dir)


def test_values_are_in_the_log_and_its_json(finished):
    runner, hook, work_dir = finished
    assert [entry['epoch'] for entry in hook.history] == [2, 3]  # the first epoch gives none
    assert all(0 <= entry['instability'] <= 1 for entry in hook.history)

    (text,) = work_dir.glob('*/*.log')
    text = text.read_text()
    shown = re.findall(r'([\d.]+)% of (\d+) objects have another query than after epoch (\d)', text)
    assert [float(x[0]) for x in shown] == [
        pytest.approx(100 * entry['instability'], abs=0.06) for entry in hook.history
    ]
    assert [x[2] for x in shown] == ['1', '2']
    assert len(re.findall(r'% of the epoch', text)) == 3

    (lines,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in lines.read_text().splitlines()]
    for name in ('instability', 'published_instability'):
        logged = {x['step']: x[f'matching/{name}'] for x in lines if f'matching/{name}' in x}
        assert logged == {entry['epoch']: entry[name] for entry in hook.history}
        assert runner.message_hub.get_scalar(f'matching/{name}').data[0].tolist() == [
            entry[name] for entry in hook.history
        ]


def test_training_is_the_same_without_the_hook(finished, tmp_path, data_root):
    runner, _, _ = finished
    cfg = make_config(tmp_path, data_root)
    cfg.custom_hooks.pop(0)
    without, hook = train(cfg)
    assert hook is None
    expected, weights = without.model.state_dict(), runner.model.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_modes_of_modules_come_back(finished):
    runner, hook, _ = finished
    runner.model.train()
    runner.model.backbone.eval()
    modes = [module.training for module in runner.model.modules()]
    hook.after_train_epoch(runner)
    assert [module.training for module in runner.model.modules()] == modes
    assert True in modes and False in modes


def test_resumed_run_has_the_whole_history(finished, tmp_path, data_root):
    """The checkpoint of epoch 2 holds the matching that epoch 3 is compared with."""
    _, hook, work_dir = finished
    shutil.copy(work_dir / 'epoch_2.pth', tmp_path)
    cfg = make_config(tmp_path, data_root)
    cfg.load_from, cfg.resume = str(tmp_path / 'epoch_2.pth'), True
    _, resumed = train(cfg)
    assert resumed.history[:2] == hook.history[:2]
    assert resumed.history[1]['epoch'] == 3

    # the safe loader takes the state, too, and there is no tensor that it could put on a GPU
    state = torch.load(work_dir / 'epoch_2.pth', weights_only=True)['message_hub']
    last = state['runtime_info']['matching_stability']['last']
    assert last['epoch'] == 2 and len(last['queries']) == sum(last['counts'])
    assert {type(query) for query in last['queries']} == {int}


def test_other_objects_after_resuming_begin_anew(finished, tmp_path, data_root, capfd):
    _, _, work_dir = finished
    cfg = make_config(tmp_path, data_root)
    cfg.load_from, cfg.resume = str(work_dir / 'epoch_2.pth'), True
    cfg.custom_hooks[0].num_images = 3
    _, resumed = train(cfg)
    assert [entry['epoch'] for entry in resumed.history] == [2]
    (log,) = tmp_path.glob('*/*.log')
    assert 'the objects are not those of the matching in the checkpoint' in log.read_text()


def test_random_state_of_other_gpus_is_left_alone(monkeypatch):
    """And where no GPU is in use, none is asked for its state."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # torch warns of many devices that are not named
        with _preserved_random_state():
            torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)


def loader_of(data_root: str, pipeline: list, **dataset):
    cfg = Config.fromfile(CONFIG).val_dataloader
    cfg.dataset.update(data_root=data_root, options=OPTIONS, **dataset)
    cfg.dataset.pipeline[2:3] = pipeline
    return Runner.build_dataloader(cfg.to_dict(), seed=0)


class Recorder(torch.nn.Module):
    """Stands in for a detector."""

    def data_preprocessor(self, batch, training):
        assert not training
        return batch


@pytest.mark.parametrize('annotations_first', [False, True])
def test_objects_are_where_the_input_has_them(data_root, monkeypatch, annotations_first):
    """Wherever the pipeline loads its annotations."""
    seen = []

    def record(detector, inputs, samples):
        seen.extend(samples)
        return [torch.zeros(len(sample.gt_instances), dtype=torch.long) for sample in samples]

    monkeypatch.setattr('deim_mmdet.engine.matching_stability_hook.matched_queries', record)
    load = [dict(type='LoadAnnotations', with_bbox=True)] if annotations_first else []
    resize = dict(type='Resize', scale=(128, 96), keep_ratio=False)  # from 64 x 64
    images = FixedImages(loader_of(data_root, [*load, resize]), num_images=100)
    matched = images.match(Recorder())
    assert len(matched) == len(seen) == 5
    truth = json.loads((Path(data_root) / 'annotations/val.json').read_text())['annotations']
    for number, sample in enumerate(seen, start=1):
        x, y, w, h = (
            torch.tensor([a['bbox'] for a in truth if a['image_id'] == number])
            .float()
            .reshape(-1, 4)
            .unbind(-1)
        )
        expected = torch.stack([2 * x, 1.5 * y, 2 * (x + w), 1.5 * (y + h)], dim=1)
        torch.testing.assert_close(sample.gt_instances.bboxes, expected)


def test_bad_images(data_root):
    crop = [dict(type='RandomCrop', crop_size=(32, 32), allow_negative_crop=True)]
    with pytest.raises(ValueError, match='resized and nothing else'):
        FixedImages(loader_of(data_root, crop), num_images=100).match(Recorder())
    with pytest.raises(ValueError, match='set test_mode=True'):
        FixedImages(loader_of(data_root, [], test_mode=False), num_images=100)
    empty = [i for i in range(5) if not _objects(data_root, i)]
    with pytest.raises(ValueError, match='none of 1 images has an object'):
        FixedImages(loader_of(data_root, [], indices=empty), num_images=1)


def _objects(data_root, index):
    return loader_of(data_root, []).dataset.get_data_info(index)['instances']


@pytest.mark.parametrize('settings', [dict(num_images=0), dict(interval=0)])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match='at least 1'):
        MatchingStabilityHook(**settings)


def test_bad_runs(tmp_path, data_root):
    cfg = make_config(tmp_path / 'a', data_root)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    with pytest.raises(ValueError, match='needs images with ground truth'):
        train(cfg)
    cfg = make_config(tmp_path / 'b', data_root)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=10)
    with pytest.raises(TypeError, match='needs an EpochBasedTrainLoop'):
        train(cfg)


def test_bad_pipeline_is_found_before_the_first_step(tmp_path, data_root, monkeypatch):
    def train_step(*args, **kwargs):
        raise AssertionError('a step was trained')

    monkeypatch.setattr(BaseModel, 'train_step', train_step)
    cfg = make_config(tmp_path, data_root)
    cfg.val_dataloader.dataset.pipeline.insert(3, dict(type='Pad', size=(96, 96)))
    with pytest.raises(ValueError, match='resized and nothing else'):
        train(cfg)


def match_all(data_root: str) -> list:
    """The query of each object, for a model with random weights; two images make a batch."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIG)
    loader = cfg.val_dataloader
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    loader.dataset.update(data_root=data_root, options=OPTIONS)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()  # mmdet leaves the embedding of levels as the memory happens to be
    images = FixedImages(Runner.build_dataloader(loader, seed=0), num_images=100)
    with torch.no_grad():
        return [queries.tolist() for queries in images.match(model)]


def match_on_rank(rank: int, data_root: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        f'file://{folder}/rendezvous',
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=4),
    )
    torch.save(match_all(data_root), f'{folder}/rank{rank}.pt')
    dist.destroy_process_group()


def test_two_ranks_share_the_images(tmp_path, data_root):
    """Three batches: two for the first rank, one for the second; both know all."""
    mp.spawn(match_on_rank, (data_root, str(tmp_path)), nprocs=2)
    expected = match_all(data_root)
    assert sum(map(len, expected)) > 0
    for rank in range(2):
        assert torch.load(tmp_path / f'rank{rank}.pt') == expected
