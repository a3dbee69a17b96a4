# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Training with denoising queries: any input, no objects, two processes, a resumed run."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

import deim_mmdet  # noqa: F401
from tests.test_models.samples import data_samples
from tests.test_models.small_dn_detr import CONFIG_OF, CONFIGS, small_model

TERMS = ('loss_cls', 'loss_bbox', 'loss_iou')
KEYS = {f'{layer}{dn}{term}' for layer in ('d0.', '') for dn in ('', 'dn_') for term in TERMS}


def build(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(small_model(kind))
    model.init_weights()
    return model.train()


@pytest.mark.parametrize('kind', CONFIG_OF)
def test_any_batch(kind):
    """The same terms, all finite, and a gradient for every parameter."""
    model = build(kind)
    batches = [  # objects of each image, height and width of the batch, of the images within
        ((0, 0), (64, 64), [(64, 64), (64, 64)]),  # no object at all
        ((0, 3), (64, 96), [(64, 96), (64, 96)]),
        ((2, 0, 5), (96, 64), [(96, 64), (64, 33), (50, 64)]),  # padded
        ((1,), (101, 67), [(101, 67)]),  # no multiple of the strides
    ]
    for counts, hw, sizes in batches:
        samples = data_samples(counts, hw, 10)
        for sample, (height, width) in zip(samples, sizes):
            sample.set_metainfo(dict(img_shape=(height, width)))
            sample.gt_instances.bboxes *= torch.tensor([width / hw[1], height / hw[0]] * 2)
        images = torch.randn(len(counts), 3, *hw)
        model.zero_grad()
        losses = model.loss(images, samples)
        assert losses.keys() == KEYS
        for name, value in losses.items():
            assert value.isfinite()
            positive = sum(counts) > 0 or name.endswith('loss_cls') and 'dn_' not in name
            assert (value > 0) == positive, name
        sum(losses.values()).backward()
        missing = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert missing == set()
        model.eval()  # returns nothing with a ResNet of mmdet
        with torch.no_grad():
            results = model.predict(images, copy.deepcopy(samples))
        model.train()
        for result in results:
            assert len(result.pred_instances) == 20
            assert result.pred_instances.bboxes.isfinite().all()


def test_a_rank_without_objects_neither_hangs_nor_differs(tmp_path):
    mp.spawn(train_steps, args=(str(tmp_path),), nprocs=2)  # pytest's timeout ends a hang
    for kind in CONFIG_OF:
        (losses, gradients), (others, other_gradients) = (
            torch.load(tmp_path / f'{kind}_{rank}.pt') for rank in range(2)
        )
        assert list(losses) == list(others) and set(losses) == KEYS
        # 7 objects in 5 groups on one of two ranks: divided by their mean, half as many
        single = step(build(kind), 1)
        for name in ('dn_loss_cls', 'dn_loss_bbox', 'dn_loss_iou'):
            assert losses[name] == 0
            torch.testing.assert_close(others[name], 2 * single[name])
        assert set(gradients) == set(other_gradients)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, other_gradients[name], rtol=0, atol=0)
        assert any(gradient.abs().sum() > 0 for gradient in gradients.values())


def step(model: torch.nn.Module, rank: int) -> dict:
    torch.manual_seed(rank)
    samples = data_samples([(0, 0), (3, 4)][rank], (64, 96), 10)
    losses = model(torch.rand(2, 3, 64, 96), samples, mode='loss')
    sum(losses.values()).backward()
    return {name: value.detach() for name, value in losses.items()}


def train_steps(rank: int, folder: str):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/rendezvous', rank=rank, world_size=2)
    init_default_scope('mmdet')
    for kind in CONFIG_OF:
        model = build(kind)
        # all parameters take part in every step, so no search for unused ones
        losses = step(DistributedDataParallel(model, find_unused_parameters=False), rank)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        torch.save((losses, gradients), f'{folder}/{kind}_{rank}.pt')
    dist.destroy_process_group()


class Images(Dataset):
    """Four images with 0, 1, 2 and 3 objects."""

    metainfo = dict(classes=tuple('0123456789'))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 64, 96), generator=generator).byte()
        return dict(inputs=image, data_samples=data_samples([index], (64, 96), 10)[0])


class SeedOfEpoch(Hook):
    """The noise of an epoch is then the same in a resumed run; breaks off before epoch ``end``."""

    def __init__(self, end: int):
        self.end = end

    def before_train_epoch(self, runner):
        torch.manual_seed(runner.epoch)
        if runner.epoch == self.end:
            raise KeyboardInterrupt


def runner(folder, kind: str, end: int = 3, **changes) -> Runner:
    """Three epochs of the recipe, the learning rate drops after two."""
    cfg = Config.fromfile(CONFIGS / '_base_/schedules/dn_detr.py')
    cfg.param_scheduler.milestones = [2]
    return Runner(
        model=small_model(kind),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Images(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(
            load_weights=cfg.default_hooks.load_weights,
            checkpoint=dict(type='CheckpointHook', interval=1),
            # constants that do not depend on the length of the run
            ema=dict(type='WarmupEMAHook', decay=0.5, warmup=0, max_window_share=1.0),
        ),
        custom_hooks=[SeedOfEpoch(end)],
        default_scope='mmdet',
        experiment_name=f'{folder.name}_{kind}',
        randomness=dict(seed=0),
        log_level='WARNING',
        **changes,
    )


@pytest.mark.parametrize('kind', CONFIG_OF)
def test_a_resumed_run_is_the_whole_run(tmp_path, kind):
    """Weights, average, optimiser and learning rate."""
    runner(tmp_path / 'whole', kind).train()
    with pytest.raises(KeyboardInterrupt):
        runner(tmp_path / 'part', kind, end=1).train()
    checkpoint = str(tmp_path / 'part/epoch_1.pth')
    resumed = runner(tmp_path / 'rest', kind, load_from=checkpoint, resume=True)
    resumed.train()
    whole, rest = (
        torch.load(tmp_path / folder / 'epoch_3.pth', weights_only=False)
        for folder in ('whole', 'rest')
    )
    groups = resumed.optim_wrapper.optimizer.param_groups
    assert {round(group['lr'], 9) for group in groups} == {1e-5, 1e-6}
    for name in ('state_dict', 'ema_state_dict'):  # the average, the model
        for key, value in whole[name].items():
            torch.testing.assert_close(rest[name][key], value, rtol=0, atol=0, msg=key)
    differences = [
        (whole['state_dict'][key] - value).abs().max()
        for key, value in resumed.model.named_parameters()
        if value.requires_grad
    ]
    assert max(differences) > 1e-6  # the average is another one
