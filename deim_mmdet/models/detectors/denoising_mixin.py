# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import OptConfigType
from torch import Tensor

from deim_mmdet.models.dense_heads.denoising_head_mixin import DenoisingHeadMixin
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.targets import BatchTargets

from .rtdetr import fit_weights


class DenoisingMixin:
    """Trains a DETR of mmdet with the denoising queries of
    `DN-DETR <https://arxiv.org/abs/2203.01305>`_.

    To be named before the detector among the bases. It adds to the stages of
    ``DetectionTransformer.forward_transformer``: in a training loss the
    queries of :meth:`denoising_inputs` go before the normal ones into the decoder, whose
    self-attention keeps them apart, and the head is told of them. With ``denoising=None`` the
    detector is unchanged.

    Args:
        denoising (dict, optional): Config of the :class:`DenoisingQueryGenerator`, without
            ``num_classes`` and ``embed_dims``, which the detector knows. Defaults to None: the
            detector as it is, without denoising.
        args, kwargs: Arguments of the detector.

    Raises:
        ValueError: The head has no losses for denoising queries.
    """

    # What the decoder layers call the mask of their self-attention.
    self_attn_mask_name = 'self_attn_masks'
    # Whether the detector's own queries have a content. If not they get that of "no object".
    has_content = False

    def __init__(self, *args, denoising: OptConfigType = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._register_load_state_dict_pre_hook(fit_weights, with_module=True)
        self._register_load_state_dict_pre_hook(refuse_to_drop_content, with_module=True)
        self._register_load_state_dict_pre_hook(begin_without_content, with_module=True)
        self.denoising = None
        self._targets = None  # objects of the batch, while a loss is computed
        if denoising is None:
            return
        if not isinstance(self.bbox_head, DenoisingHeadMixin):
            raise ValueError(
                'denoising needs a head with losses for it, got '
                f'{type(self.bbox_head).__name__}: set bbox_head.type={type(self).__name__}Head, '
                'or denoising=None in the model'
            )
        self.denoising = MODELS.build(
            dict(denoising, num_classes=self.bbox_head.num_classes, embed_dims=self.embed_dims)
        )

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Dict[str, Tensor]:
        """As the detector's own; in training there are denoising queries, too."""
        with self.objects_known(batch_data_samples, batch_inputs.device):
            return super().loss(batch_inputs, batch_data_samples)

    @contextmanager
    def objects_known(self, batch_data_samples: SampleList, device: torch.device) -> Iterator[None]:
        """Within this context, in training, denoising queries are made from the objects.

        The stages of mmdet's detectors do not know whether they compute a loss, predictions or
        plain outputs, and do not hand the objects on.
        """
        if self.denoising is not None and self.training:
            # boxes are in units of the image without its padding, as in mmdet's heads
            self._targets = BatchTargets.in_image_units(batch_data_samples, device)
        try:
            yield
        finally:
            self._targets = None

    def pre_decoder(self, *args, **kwargs) -> Tuple[Dict, Dict]:
        """As the detector's own; normal queries without content get that of "no object"."""
        decoder_inputs, head_inputs = super().pre_decoder(*args, **kwargs)
        if self.denoising is None:
            return decoder_inputs, head_inputs
        if not self.has_content:
            decoder_inputs['query'] = decoder_inputs['query'] + self.denoising.normal_content()
        # what Deformable DETR adds in training is for the loss alone
        return decoder_inputs, head_inputs if self._targets is not None else {}

    def forward_decoder(self, query: Tensor, **decoder_inputs) -> Dict[str, Any]:
        """As the detector's own, on the denoising queries and the normal ones.

        Args:
            query (Tensor): Contents of the normal queries, shape (bs, N, embed_dims).
            decoder_inputs: The other inputs of the detector's decoder.

        Returns:
            dict: Inputs of the head: of N queries, or within :meth:`objects_known` of Nd + N
            queries, and ``denoising`` and ``targets``, too.
        """
        decoder_inputs['query'] = query
        targets = self._targets
        if targets is None:
            return super().forward_decoder(**decoder_inputs)
        denoising = self.denoising(targets, query.shape[1])
        for name, value in self.denoising_inputs(denoising).items():
            normal = decoder_inputs[name]
            decoder_inputs[name] = torch.cat([value.to(normal.dtype), normal], dim=1)
        with self.masked_self_attention(denoising.attn_mask):
            outputs = super().forward_decoder(**decoder_inputs)
        return dict(outputs, denoising=denoising, targets=targets)

    def denoising_inputs(self, denoising: DenoisingQueries) -> Dict[str, Tensor]:
        """The denoising queries under the names that ``forward_decoder`` has for the normal ones,
        each of shape (bs, Nd, ...).
        """
        raise NotImplementedError(
            f'{type(self).__name__} must say how its decoder takes denoising queries: write its '
            'method denoising_inputs(denoising), which returns their contents and references under '
            'the names of the inputs of forward_decoder, as DNDETR.denoising_inputs does'
        )

    @contextmanager
    def masked_self_attention(self, mask: Tensor) -> Iterator[None]:
        """Within this context the decoder layers mask their self-attention.

        mmdet's detectors do not hand a mask to their decoder, nor do all decoders to their layers.

        Args:
            mask (Tensor): Who may **not** attend to whom, bool, shape (Nd + N, Nd + N).
        """

        def add_mask(layer, args, kwargs):
            return args, {**kwargs, self.self_attn_mask_name: mask}

        hooks = [
            layer.register_forward_pre_hook(add_mask, with_kwargs=True)
            for layer in self.decoder.layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def refuse_to_drop_content(module: DenoisingMixin, state_dict: Dict, prefix: str, *args) -> None:
    """Refuse weights whose normal queries need a content that this detector does not have.

    Raises:
        ValueError: They were trained with denoising, and the detector is built without.
    """
    key = f'{prefix}denoising.label_embedding.weight'
    if module.denoising is None and not module.has_content and key in state_dict:
        raise ValueError(
            f'the weights were trained with denoising: their queries begin with a row of {key}, '
            'also in evaluation, and this model has denoising=None. Set '
            "model.denoising=dict(type='DenoisingQueryGenerator'), or take weights without it."
        )


@torch.no_grad()
def begin_without_content(module: DenoisingMixin, state_dict: Dict, prefix: str, *args) -> None:
    """Let weights of the detector without denoising give its outputs: the content of the normal
    queries, which they do not have, begins at 0."""
    key = f'{prefix}denoising.label_embedding.weight'
    is_detector = any(name.startswith(f'{prefix}decoder.') for name in state_dict)
    if module.denoising is None or module.has_content or key in state_dict or not is_detector:
        return
    module.denoising.label_embedding.weight[module.denoising.num_classes] = 0
