# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Iterator, Optional, Sequence

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..datasets.batch import BatchMixUp, BatchRandomSize
from ..datasets.transforms import DenseO2O, DenseO2OStage, dense_o2o_stage
from ..datasets.transforms.dense_o2o_stage import check_epochs


@HOOKS.register_module()
class DenseO2OHook(Hook):
    """Sets the stage of Dense O2O before every epoch, in the data workers and on the device.

    The stage depends on the epoch alone, so a resumed run goes on in the stage it was in. The hook
    steers every ``DenseO2O`` in the training data, every ``BatchMixUp`` (on in the epochs
    ``mixup``) and every ``BatchRandomSize`` (on until the last stage) of the data preprocessor.

    Source: DEIM, arXiv 2412.04234, and the published training settings.

    Args:
        stages (Sequence[int]): (e0, e1, e2), the 0-based epochs where mosaics begin, where they
            end, and where all augmentation of Dense O2O ends.
        mixup (Sequence[int], optional): The first epoch with MixUp and the first one after.
            Defaults to (e0, e1).

    Raises:
        ValueError: If the epochs do not ascend, or there is nothing to steer.
        TypeError: If the training loop does not count epochs.
    """

    def __init__(self, stages: Sequence[int], mixup: Optional[Sequence[int]] = None):
        self.stages = check_epochs(stages, 'stages', 3)
        self.mixup = self.stages[:2] if mixup is None else check_epochs(mixup, 'mixup', 2)

    def before_train(self, runner: Runner) -> None:
        """Finds what there is to steer.

        Args:
            runner (Runner): The runner.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                'DenseO2OHook counts stages in epochs and needs an EpochBasedTrainLoop, but got '
                f'{type(runner.train_loop).__name__}'
            )
        if self.stages[-1] > runner.max_epochs:
            runner.logger.warning(
                f'DenseO2OHook: the stages {self.stages} go beyond the run of {runner.max_epochs} '
                'epochs. A config that changes max_epochs states them again, and the schedule.'
            )
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._transforms = list(find_transforms(runner.train_dataloader.dataset, DenseO2O))
        self._mixups = [m for m in model.modules() if isinstance(m, BatchMixUp)]
        self._random_sizes = [m for m in model.modules() if isinstance(m, BatchRandomSize)]
        if not (self._transforms or self._mixups or self._random_sizes):
            raise ValueError(
                'DenseO2OHook has nothing to steer: put DenseO2O into the pipeline of the training '
                'data or BatchMixUp into the batch_augments of the data preprocessor, or take the '
                'hook out of the config'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Sets the stage of the epoch that begins.

        Args:
            runner (Runner): The runner.
        """
        epoch = runner.epoch
        stage = dense_o2o_stage(epoch, self.stages)
        for transform in self._transforms:
            transform.stage = stage
        for augment in self._mixups:
            augment.enabled = self.mixup[0] <= epoch < self.mixup[1]
        for augment in self._random_sizes:
            augment.enabled = stage is not DenseO2OStage.PLAIN_END
        if epoch in (*self.stages, *self.mixup):
            runner.logger.info(
                f'Dense O2O: stage {stage.name} from epoch {epoch} on, '
                f'MixUp {"on" if self.mixup[0] <= epoch < self.mixup[1] else "off"}'
            )


def find_transforms(data: object, kind: type) -> Iterator:
    """Walks through data set wrappers, pipelines and transforms that hold transforms.

    Args:
        data (object): Data set, pipeline or transform.
        kind (type): What to look for.

    Yields:
        object: Every instance of ``kind``, in the order of the pipeline.
    """
    if isinstance(data, kind):
        yield data
    elif isinstance(data, (list, tuple)):
        for item in data:
            yield from find_transforms(item, kind)
    else:
        # data set wrappers of mmengine and mmdet, Compose and the wrapping transforms of mmcv
        for name in ('dataset', '_dataset', 'datasets', 'pipeline', 'transforms'):
            inner = getattr(data, name, None)
            if inner is not None:
                yield from find_transforms(inner, kind)
