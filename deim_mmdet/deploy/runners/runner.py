# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from abc import ABC, abstractmethod
from importlib import import_module
from types import ModuleType
from typing import Dict, List, Optional

import numpy as np

from ..extras import how_to_install
from ..metadata import Metadata


class Runner(ABC):
    """Runs an exported file.

    Attributes:
        metadata (Metadata): What the file says about itself.
        name (str): Backend and its version, as 'ONNX Runtime 1.22.1'.
        device (str): 'cpu' or 'cuda': where it runs.
        largest_batch (int, optional): Images per run, where the file itself does not say how many;
            None for any number.
        smallest_batch (int): The fewest images per run, where the file itself does not say.
    """

    metadata: Metadata
    name: str
    device: str = 'cpu'
    largest_batch: Optional[int] = None
    smallest_batch: int = 1

    @abstractmethod
    def run(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:
        """Run the graph once.

        Args:
            feeds (dict[str, ndarray]): ``images`` and, where the file was exported so,
                ``original_hw``, of the types and shapes of its inputs.

        Returns:
            list[ndarray]: All outputs in the graph's order: ``boxes``, shape (bs, K, 4), float32;
            ``scores``, shape (bs, K), float32; ``labels``, shape (bs, K), int64. They stay as they
            are in later runs.
        """


def import_backend(module: str) -> ModuleType:
    """A module that not everyone has.

    Raises:
        ImportError: It is missing; the message names the extra of this package that has it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            raise ImportError(f'{module} is missing: {how_to_install()}') from None
        raise  # it is there, and broken: that says why
