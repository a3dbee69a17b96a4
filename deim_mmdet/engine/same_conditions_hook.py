# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import zlib
from typing import Dict, Optional

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, set_random_seed
from torch import Tensor


@HOOKS.register_module()
class SameConditionsHook(Hook):
    """Lets runs differ in nothing but what they are meant to differ in.

    Mosaics and denoising queries draw random numbers, and change what is drawn after them. So all
    random sources are seeded anew in every step, before the images are loaded and before the model
    sees them. A resumed run thus goes on as if it had never stopped::

        randomness = dict(seed=0)  # of the first weights and the order of the images
        custom_hooks = [dict(type='SameConditionsHook', seed=0)]

    Worker processes that load images have seeds of their own, which do not depend on the model, but
    are others in a resumed run.

    Args:
        seed (int): Seed of the run, at least 0.
        weights (dict[str, Tensor], optional): Values that the weights of these names begin with,
            such as those of a model that has more. Defaults to None: what the model begins with.

    Attributes:
        images_crc32 (int): Check sum of the images so far; may be set.
        order_crc32 (int): Check sum of their ids; may be set.
    """

    priority = 'VERY_HIGH'

    def __init__(self, seed: int, weights: Optional[Dict[str, Tensor]] = None) -> None:
        self.seed = seed
        self.weights = weights
        self.images_crc32 = 0
        self.order_crc32 = 0

    def before_train(self, runner: Runner) -> None:
        """Sets the weights in common.

        Args:
            runner (Runner): The runner.
        """
        if self.weights is not None:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            own = model.state_dict()
            weights = {key: value for key, value in self.weights.items() if key in own}
            model.load_state_dict(weights, strict=False)

    def before_train_epoch(self, runner: Runner) -> None:
        """Seeds the first batch.

        Args:
            runner (Runner): The runner.
        """
        self._seed(runner.iter)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Seeds the step, and counts its images in.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the batch in its epoch.
            data_batch (dict, optional): Images ``inputs`` and ``data_samples``.
        """
        self._seed(runner.iter)
        for image, sample in zip(data_batch['inputs'], data_batch['data_samples']):
            self.images_crc32 = zlib.crc32(image.numpy().tobytes(), self.images_crc32)
            self.order_crc32 = zlib.crc32(
                f'{sample.metainfo.get("img_id")} '.encode(), self.order_crc32
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Seeds the batch that is loaded now.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the batch in its epoch.
            data_batch (dict, optional): Its images.
            outputs (dict, optional): Losses of the step.
        """
        self._seed(runner.iter + 1)

    def _seed(self, step: int) -> None:
        set_random_seed((self.seed * 1_000_003 + step) % 2**32)
