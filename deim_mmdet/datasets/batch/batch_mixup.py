# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import List, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn


@MODELS.register_module()
class BatchMixUp(nn.Module):
    """Mixes every image of a batch with the one before it, and keeps the objects of both.

    ``image = beta * image + (1 - beta) * previous image``, with one beta for the whole batch; the
    first image is mixed with the last. Boxes and labels of both count in full.

    For ``DetDataPreprocessor(batch_augments=[...])`` of any detector. ``DenseO2OHook`` sets
    :attr:`enabled` before every epoch; without the hook it stays on. Every rank draws for itself.

    Source: DEIM, arXiv 2412.04234, section 3.2 (Dense O2O).

    Args:
        prob (float): How often a batch is mixed. Defaults to 0.5.
        beta_range (tuple[float]): Share of the image itself. Defaults to (0.45, 0.55).

    Attributes:
        enabled (bool): Whether batches are mixed at all.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, prob: float = 0.5, beta_range: Tuple[float, float] = (0.45, 0.55)):
        super().__init__()
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be in [0, 1], but got {prob}')
        if not 0 <= beta_range[0] <= beta_range[1] <= 1:
            raise ValueError(f'beta_range must ascend within [0, 1], but got {beta_range}')
        self.prob = prob
        self.beta_range = tuple(beta_range)
        self.enabled = True

    def forward(
        self, inputs: Tensor, data_samples: Sequence[DetDataSample]
    ) -> Tuple[Tensor, List[DetDataSample]]:
        """Mixes a batch, or hands it on.

        Args:
            inputs (Tensor): Images, shape (bs, 3, H, W).
            data_samples (Sequence[DetDataSample]): Their annotations.

        Returns:
            tuple[Tensor, list[DetDataSample]]: Images and annotations. Those that came in stay as
            they are.
        """
        # an image mixed with itself would only count its objects twice
        if not self.enabled or len(data_samples) < 2 or torch.rand(()).item() >= self.prob:
            return inputs, data_samples
        beta = torch.empty(()).uniform_(*self.beta_range).item()
        inputs = torch.lerp(inputs.roll(1, dims=0), inputs, beta)
        previous = [data_samples[-1], *data_samples[:-1]]
        return inputs, [_merge(sample, other) for sample, other in zip(data_samples, previous)]

    def extra_repr(self) -> str:
        return f'prob={self.prob}, beta_range={self.beta_range}'


def _merge(sample: DetDataSample, other: DetDataSample) -> DetDataSample:
    """A new sample with the meta information of the first and the objects of both."""
    merged = sample.new()
    for key in ('gt_instances', 'ignored_instances'):
        if key in sample and key in other:
            setattr(merged, key, InstanceData.cat([sample.get(key), other.get(key)]))
    # both images begin in the top left corner, so the larger of each side covers both
    shapes = zip(sample.img_shape[:2], other.img_shape[:2])
    merged.set_metainfo(dict(img_shape=tuple(max(sides) for sides in shapes)))
    return merged
