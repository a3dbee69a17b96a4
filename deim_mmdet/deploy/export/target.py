# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Callable, List

import torch.nn as nn

from deim_mmdet.new_output import new_output

from ..metadata import Metadata
from .onnx_export import ExportOptions

Check = Callable[[Path], None]


class Target(ABC):
    """What is to run a file, as far as export has to know it.

    Making one refuses what the backend cannot do at all; nothing was computed by then.
    """

    # Whether float16 is a matter of the graph's types, not of how weights are stored.
    half_in_graph = True

    def adapt(self, detector: nn.Module, options: ExportOptions) -> ExportOptions:
        """The kind of graph that the backend can have of a detector."""
        return options

    def refuse(  # noqa: B027  most refuse nothing
        self, detector: nn.Module, options: ExportOptions, metadata: Metadata
    ) -> None:
        """Refuse what no file can be made of, before the graph is made.

        Raises:
            ValueError: The message says why and what can be done.
        """

    @abstractmethod
    def write(self, graph: Path, out: Path, check: Check, overwrite: bool = False) -> List[str]:
        """Make the file of a graph.

        Args:
            graph (Path): What :func:`export_onnx` or :func:`quantize` wrote.
            out (Path): The new file.
            check (callable): Gets the file under a temporary name, or what it is made of; if it
                raises, nothing is left at ``out``.
            overwrite (bool): Replace existing files. Defaults to False.

        Returns:
            list[str]: What there is to say about it.
        """


class OnnxRuntimeTarget(Target):
    """The graph as it is."""

    def write(self, graph: Path, out: Path, check: Check, overwrite: bool = False) -> List[str]:
        check(graph)
        with new_output(out, overwrite) as new:
            shutil.copyfile(graph, new)
        return []
