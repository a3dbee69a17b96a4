# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import List, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from deim_mmdet.deploy.metadata import Metadata
from deim_mmdet.deploy.runners.torch_runner import TorchRunner


class TransformersRunner(TorchRunner):
    """A model of transformers with the interface of :class:`TorchRunner`: as it is loaded, neither
    fused nor with the channels last, and with its own post-processing.

    Args:
        model (PreTrainedModel): See :func:`transformers_model`; it is changed.
        processor (BaseImageProcessor): What reads its results.
        metadata, device, half, compiled, postprocess: As of :class:`TorchRunner`.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: object,
        metadata: Metadata,
        device: str = 'cpu',
        half: bool = False,
        compiled: bool = False,
        postprocess: bool = True,
    ) -> None:
        self.metadata = metadata
        self.name = 'transformers'
        self.place(model, device, half, compiled)
        self.processor = processor if postprocess else None

    def _inputs(self, feeds) -> List[Tensor]:
        return [torch.from_numpy(feeds['images']).to(self.target)]

    @torch.inference_mode()
    def _forward(self, inputs: List[Tensor]) -> Tuple[Tensor, ...]:
        (images,) = inputs
        with torch.autocast(self.device, torch.float16, enabled=self.half):
            outputs = self.module(pixel_values=images)
        if self.processor is None:
            return outputs.logits, outputs.pred_boxes
        sizes = [tuple(images.shape[-2:])] * len(images)
        found = self.processor.post_process_object_detection(outputs, 0.0, sizes)
        return tuple(
            torch.stack([each[key] for each in found]) for key in ('boxes', 'scores', 'labels')
        )
