# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""One rank of test_two_ranks.py: rank 0 has images with objects, rank 1 has none."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

import deim_mmdet  # noqa: F401
from deim_mmdet.engine import AnyDeviceDistributedDataParallel

CONFIG = Path(__file__).parents[2] / 'configs' / 'deim' / 'deim_dfine_hgnetv2-n_digits.py'
HEIGHT, WIDTH = 64, 96


def batch():
    """Four images; the last two have no object."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    bboxes = torch.tensor([[4.0, 4, 30, 40], [40, 10, 90, 60], [50, 0, 70, 20]])
    for keep in (3, 2, 0, 0):
        inputs.append(torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator).byte())
        instances = InstanceData(bboxes=bboxes[:keep], labels=torch.tensor([1, 7, 7])[:keep])
        sample = DetDataSample(gt_instances=instances)
        sample.set_metainfo(dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH)))
        samples.append(sample)
    return inputs, samples


def build(**changes):
    cfg = Config.fromfile(CONFIG).model
    cfg.data_preprocessor.batch_augments = None
    cfg.num_queries = 20
    cfg.update(changes)
    torch.manual_seed(0)
    model = MODELS.build(cfg).train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # activations of order one without statistics
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # an image gives the same alone and in a batch
    return model


def prepared(model, images):
    inputs, samples = batch()
    data = dict(inputs=[inputs[i] for i in images], data_samples=[samples[i] for i in images])
    return model.data_preprocessor(data, training=True)


def gradients(model, images):
    """Gradients of the loss of some of the images, by name."""
    bare = getattr(model, 'module', model)
    loss, _ = bare.parse_losses(model(**prepared(bare, images), mode='loss'))
    loss.backward()
    return {name: w.grad for name, w in bare.named_parameters() if w.requires_grad}


def main(folder):
    init_default_scope('mmdet')
    rank = dist.get_rank()
    mine = [[0, 1], [2, 3]][rank]
    found = {}
    wrapped = AnyDeviceDistributedDataParallel(build(), device_ids=[rank])
    found['recipe'] = gradients(wrapped, mine)
    # The distillation weighs by counts of its own rank, and denoising draws random numbers: without
    # them two ranks are one process with all the images.
    head = Config.fromfile(CONFIG).model.bbox_head
    plain = dict(
        denoising=None,
        bbox_head=dict(head, loss_ddf=dict(type='DecoupledDistillationFocalLoss', loss_weight=0.0)),
    )
    found['plain'] = gradients(AnyDeviceDistributedDataParallel(build(**plain)), mine)
    found['one process'] = gradients(build(**plain), [0, 1, 2, 3])
    torch.save(found, Path(folder) / f'rank{rank}.pt')


if __name__ == '__main__':
    main(sys.argv[1])
