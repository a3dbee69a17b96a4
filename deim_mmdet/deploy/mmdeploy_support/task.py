# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
from typing import Dict, List

from mmdeploy.codebase.mmdet.deploy.object_detection import MMDET_TASK, ObjectDetection
from mmdeploy.utils import Task
from mmengine.config import Config
from mmengine.runner import Runner

from deim_mmdet.deploy.export.description import find_pipeline

from .deploy_config import check, is_ours

# Steps of our test pipelines that only look at images; the SDK does not know them.
CHECKS = ('CheckImageFile',)
# What a test needs of the hooks.
TEST_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'visualization')


# NOTE force: the name must be that of mmdeploy's own class, since a deploy config can name none but
# those of its enumeration of tasks. That class stays in use where the config is not ours.
@MMDET_TASK.register_module(name=Task.OBJECT_DETECTION.value, force=True)
class DetectionTask(ObjectDetection):
    """Object detection with settings that are checked and a pipeline that the SDK can read.

    Args:
        model_cfg (Config): Config of the detector; it is not changed.
        deploy_cfg (Config): Deploy config.
        device (str): Where to run.

    Raises:
        ValueError: A deploy config that asks for what cannot be made.
    """

    def __new__(cls, model_cfg: Config, deploy_cfg: Config, device: str) -> ObjectDetection:
        if not is_ours(deploy_cfg):
            return ObjectDetection(model_cfg, deploy_cfg, device)
        return super().__new__(cls)

    def __init__(self, model_cfg: Config, deploy_cfg: Config, device: str) -> None:
        check(deploy_cfg)
        model_cfg = copy.deepcopy(model_cfg)
        model_cfg.model.setdefault('test_cfg', {})  # the SDK's post-processing reads it
        # what is tested is what mmdeploy prepares images by
        model_cfg.test_pipeline = find_pipeline(model_cfg.test_dataloader.dataset)
        super().__init__(model_cfg, deploy_cfg, device)

    def build_test_runner(self, *args, **kwargs) -> Runner:
        """NOTE without our hooks, which train: mmdeploy leaves out custom hooks, and ours are named
        entries of the default ones.
        """
        hooks = self.model_cfg.default_hooks
        self.model_cfg.default_hooks = {key: hooks[key] for key in TEST_HOOKS if key in hooks}
        return super().build_test_runner(*args, **kwargs)

    def get_preprocess(self, *args, **kwargs) -> List[Dict]:
        """Steps from the image file to the graph's input, as the SDK reads them."""
        return [
            step for step in super().get_preprocess(*args, **kwargs) if step['type'] not in CHECKS
        ]
