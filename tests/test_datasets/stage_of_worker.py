# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A data set for spawned workers: they import this file, and so deim_mmdet before mmdet."""

from torch.utils.data import Dataset

from deim_mmdet.datasets.transforms import DenseO2O, DenseO2OStage


class StageOfWorker(Dataset):
    """Answers with the stage that the process that loads it sees."""

    def __init__(self):
        self.pipeline = [DenseO2O(stage=DenseO2OStage.PLAIN_START)]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return int(self.pipeline[0].stage)
