# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Metrics of detectors and of exported files on a test set."""

import contextlib
import io
from typing import Callable

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from .detector import Detector


def evaluate(config: Config, run: Callable) -> dict:
    """Metrics on the test set of a config.

    Args:
        config (Config): With ``test_dataloader`` and ``test_evaluator``.
        run (callable): From a batch to data samples with predictions; ``test_step`` of a detector,
            or :func:`predictor`.

    Returns:
        dict[str, float]: By names as 'coco/bbox_mAP', the most important first.
    """
    from mmdet.registry import DATASETS  # noqa: F401  registers mmdet's datasets and metrics

    loader = Runner.build_dataloader(
        dict(config.test_dataloader, num_workers=0, persistent_workers=False)
    )
    evaluator = Evaluator(config.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        for batch in loader:
            evaluator.process(data_samples=run(batch), data_batch=batch)
        return evaluator.evaluate(len(loader.dataset))


def predictor(detector: Detector) -> Callable:
    """Predictions of an exported file, by the interface of a detector of mmdet."""

    def predict(batch):
        samples = batch['data_samples']
        for sample, found in zip(samples, detector([sample.img_path for sample in samples])):
            sample.pred_instances = InstanceData(
                bboxes=torch.from_numpy(found.boxes),
                scores=torch.from_numpy(found.scores),
                labels=torch.from_numpy(found.labels),
            )
        return samples

    return predict
