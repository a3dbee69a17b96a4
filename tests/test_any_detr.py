# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""``configs/any_detr``: bases that are mmdet's own, and what DEIM changes in them."""

from pathlib import Path

import mmdet
import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits
from deim_mmdet.datasets.transforms import DenseO2OStage
from tests.test_models.samples import data_samples

FOLDER = Path(__file__).parents[1] / 'configs' / 'any_detr'
MMDET = Path(mmdet.__file__).parent / '.mim' / 'configs'
# our model -> folder of mmdet and the rest of the name
BASES = {
    'dino-4scale_r50': ('dino', '8xb2-12e_coco'),
    'ddq-detr-4scale_r50': ('ddq', '8xb2-12e_coco'),
    'deformable-detr_r50': ('deformable_detr', '16xb2-50e_coco'),
    'conditional-detr_r50': ('conditional_detr', '8xb2-50e_coco'),
    'dab-detr_r50': ('dab_detr', '8xb2-50e_coco'),
}
# variables that other settings of a config file are made of
HELPERS = {
    *('backend_args', 'dataset_type', 'max_epochs'),  # mmdet's
    *('loading', 'multi_scale', 'crop', 'attention', 'ffn'),  # ours
}


def base_config(model: str) -> Config:
    return Config.fromfile(FOLDER / f'{model}_{BASES[model][1]}.py')


def deim_config(model: str) -> Config:
    return Config.fromfile(FOLDER / f'deim_{model}_{BASES[model][1]}.py')


def digits_config(model: str) -> Config:
    return Config.fromfile(FOLDER / f'deim_{model}_digits.py')


@pytest.mark.parametrize('model', BASES)
def test_base_is_mmdets_own(model):
    """Model, data, optimiser, schedule and run time: every key, and no other."""
    folder, recipe = BASES[model]
    theirs = Config.fromfile(MMDET / folder / f'{model}_{recipe}.py').to_dict()
    ours = base_config(model).to_dict()
    assert ours.pop('custom_imports')['imports'] == ['deim_mmdet']
    for name in HELPERS:
        theirs.pop(name, None)
        ours.pop(name, None)
    assert sorted(ours) == sorted(theirs)
    for key, value in theirs.items():
        assert ours[key] == value, key


def changes(old: object, new: object, path: str = '') -> dict:
    """Dotted names of what is not the same, with the new values."""
    if not (isinstance(old, dict) and isinstance(new, dict)) or old.get('type') != new.get('type'):
        return {} if old == new else {path: new}
    found = {}
    for key in old.keys() | new.keys():
        found.update(changes(old.get(key), new.get(key), f'{path}.{key}'.lstrip('.')))
    return found


@pytest.mark.parametrize('model', BASES)
def test_deim_changes_loss_and_data_alone(model):
    base, deim = base_config(model), deim_config(model)
    head = deim.model.bbox_head
    if model.startswith('ddq'):
        assert (base.model.bbox_head.type, head.type) == ('DDQDETRHead', 'QualityDDQDETRHead')
        head.type = base.model.bbox_head.type
    found = changes(base.to_dict(), deim.to_dict())
    found.pop('dense_o2o_pipeline')  # the variable
    data = found.pop('train_dataloader.dataset')
    assert found == {
        'model.bbox_head.loss_cls': dict(type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
        'model.data_preprocessor.batch_augments': [dict(type='BatchMixUp', prob=0.5)],
        'default_hooks.dense_o2o': deim.default_hooks.dense_o2o.to_dict(),
    }
    assert data['type'] == 'MixedImageDataset'
    assert data['dataset'].pop('pipeline') == base.train_pipeline[:2]
    theirs = base.train_dataloader.dataset.to_dict()
    del theirs['pipeline']
    assert data['dataset'] == theirs
    assert data['pipeline'][0]['type'] == 'DenseO2O'
    assert 'mix_img_paths' in data['pipeline'][-1]['meta_keys']  # an error names all the images


@pytest.mark.parametrize('model', BASES)
@pytest.mark.parametrize('config', [deim_config, digits_config])
def test_stages_agree_with_the_schedule(model, config):
    cfg = config(model)
    mosaic, classic, plain = cfg.default_hooks.dense_o2o.stages
    schedule = cfg.param_scheduler[-1]
    assert 0 < mosaic < classic < plain < cfg.train_cfg.max_epochs == schedule.end
    assert plain >= schedule.milestones[-1]  # the small learning rate ends on plain images
    if config is deim_config:
        assert classic - mosaic == cfg.train_cfg.max_epochs // 2


@pytest.mark.parametrize('model', BASES)
def test_parameters(model):
    """DEIM adds none; the counts are those of the metafile."""
    metafile = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    stated = {row['Name']: row['Metadata']['Parameters'] for row in metafile['Models']}
    for cfg in base_config(model), deim_config(model), digits_config(model):
        with torch.device('meta'):  # shapes without values
            count = sum(p.numel() for p in MODELS.build(cfg.model).parameters())
        assert count == stated[Path(cfg.filename).stem]
    name = f'{model}_{BASES[model][1]}'
    assert stated[name] == stated[f'deim_{name}']


def one_step(cfg: Config) -> tuple:
    """Losses of a small step, names of the parameters without gradient, and the model."""
    cfg.model.num_queries = 30
    cfg.model.encoder.num_layers, cfg.model.decoder.num_layers = 1, 2
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    model.init_weights()  # some of mmdet's parameters are bare memory until then
    hw = (96, 64)
    samples = data_samples((2, 0, 3), hw, cfg.model.bbox_head.num_classes)
    losses = model.loss(torch.randn(3, 3, *hw), samples)
    total, log = model.parse_losses(losses)
    total.backward()
    unused = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    return log, unused, model, samples


@pytest.mark.parametrize('model', BASES)
def test_trains_a_step(model):
    """The same terms as the base, all finite, and gradients where the base has them."""
    base_log, base_unused, *_ = one_step(base_config(model))
    log, unused, detector, samples = one_step(deim_config(model))
    assert log.keys() == base_log.keys()
    assert all(value.isfinite() for value in log.values())
    assert unused == base_unused
    # the same weights and images: boxes cost what they did, classes do not
    for name, value in log.items():
        if name.endswith(('loss_bbox', 'loss_iou')):
            torch.testing.assert_close(value, base_log[name], rtol=1e-5, atol=1e-6)
        elif name.endswith('loss_cls') and 'aux' not in name:
            # DDQ's dense queries are matched one to many and keep the loss made for that
            assert (value - base_log[name]).abs() > 1e-4 * value

    with torch.no_grad():
        results = detector.eval().predict(torch.randn(3, 3, 96, 64), samples)
    assert all(result.pred_instances.scores.isfinite().all() for result in results)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Builds a folder of scenes once, and gives the settings of a data set that reads it."""
    root = tmp_path_factory.mktemp('digits')

    def build(num_train: int, image_hw: tuple, digit_size: tuple) -> dict:
        options = dict(num_train=num_train, num_val=1, image_hw=image_hw, digit_size=digit_size)
        folder = root / '-'.join(map(str, [num_train, *image_hw]))
        make_digits(folder, DigitsOptions(**options), progress=False)
        return dict(data_root=str(folder), options=options)

    return build


@pytest.mark.parametrize('model', ['dino-4scale_r50', 'dab-detr_r50'])  # both data bases
def test_dense_o2o_at_full_size(model, digits):
    """The data of the COCO configs, digits in place of COCO, through the base's batch sampler."""
    cfg = deim_config(model)
    settings = cfg.train_dataloader
    settings.update(num_workers=0, persistent_workers=False)
    settings.dataset.dataset = dict(
        type='DigitsInScenes',
        pipeline=settings.dataset.dataset.pipeline,
        filter_cfg=settings.dataset.dataset.filter_cfg,
        **digits(8, (480, 640), (40, 200)),
    )
    loader = Runner.build_dataloader(settings, seed=0)
    dense_o2o = loader.dataset.pipeline[0]
    per_stage = {}
    for stage in DenseO2OStage:
        dense_o2o.stage = stage
        samples = [s for _ in range(2) for batch in loader for s in batch['data_samples']]
        assert len(samples) == 16
        for sample in samples:
            height, width = sample.img_shape
            assert 480 <= min(height, width) <= 800 and max(height, width) <= 1333
            boxes = sample.gt_instances.bboxes.tensor
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height, width, height]) + 1e-2).all()
        per_stage[stage] = [
            sum('mix_img_paths' in s.metainfo for s in samples),
            sum(len(s.gt_instances) for s in samples),
            {round(s.img_shape[1] / s.img_shape[0], 1) for s in samples},
        ]
    assert 0 < per_stage[DenseO2OStage.MOSAIC][0] < 16
    assert [per_stage[stage][0] for stage in DenseO2OStage if stage != DenseO2OStage.MOSAIC] == [
        0
    ] * 3
    start, mosaic, classic, end = (per_stage[stage] for stage in DenseO2OStage)
    assert start[1:] == end[1:] and start[2] == {1.3}  # nothing is cropped, nothing is lost
    assert classic[1] < start[1] < mosaic[1]


class Losses(Hook):
    """Notes the loss of every step."""

    def __init__(self):
        self.total = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.total.append(outputs['loss'].item())


@pytest.mark.slow
@pytest.mark.timeout(1800)  # DDQ-DETR takes about three minutes of one core
@pytest.mark.parametrize('model', BASES)
def test_loss_falls_on_digits(model, digits, tmp_path):
    """Twenty steps of the whole recipe on four scenes: five plain ones, five with mosaics and
    MixUp, five with the classic augmentation, five plain ones. So the first and the last five see
    the same images.
    """
    cfg = digits_config(model)
    size = 128  # 192 in the config
    data = cfg.train_dataloader
    data.update(num_workers=0, persistent_workers=False)
    data.dataset.dataset.update(digits(data.batch_size, (size, size), (20, 72)))
    data.dataset.pipeline[0].mosaic[0].short_side = size // 2
    for transform in data.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (size, size)
    cfg.train_cfg.max_epochs = 20  # of one step
    cfg.train_cfg.val_interval = 100
    cfg.default_hooks.dense_o2o.stages = (5, 10, 15)
    cfg.default_hooks.checkpoint = None
    losses = Losses()
    runner = Runner(
        model=cfg.model,
        work_dir=str(tmp_path),
        train_dataloader=data,
        train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper,
        default_hooks=cfg.default_hooks,
        custom_hooks=[losses],
        default_scope='mmdet',
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name=f'any_detr_{model}',
    )
    runner.train()
    assert len(losses.total) == 20
    first, last = (torch.tensor(losses.total[part]) for part in (slice(5), slice(-5, None)))
    print(f'{model}: {first.mean():.2f} -> {last.mean():.2f}')
    assert torch.tensor(losses.total).isfinite().all()
    assert last.mean() < first.mean()
