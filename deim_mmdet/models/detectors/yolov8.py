# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS

from .rtdetr import fit_weights


@MODELS.register_module()
class YOLOv8(SingleStageDetector):
    """One-to-many detector; the first stage of DEYO (`arXiv:2402.16370
    <https://arxiv.org/abs/2402.16370>`_).

    A :class:`SingleStageDetector` that takes published weights by their published names, once
    ``tools/convert_weights.py`` has read them out of their pickle, and refuses weights of another
    size. The arguments are those of the parent.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # the method without underscore came with PyTorch 2.5
        self._register_load_state_dict_pre_hook(fit_weights, with_module=True)
