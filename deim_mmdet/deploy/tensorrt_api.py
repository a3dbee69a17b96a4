# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""One way to speak to NVIDIA's two libraries, `tensorrt` (10 and 11) and `tensorrt_rtx`.

Their Python modules are alike; an engine of one does not run with the other. What differs:

|                            | tensorrt 10            | 11       | tensorrt_rtx                |
|----------------------------|------------------------|----------|-----------------------------|
| builds without a GPU       | no                     | no       | yes, for named capabilities |
| engine runs on             | that model of GPU      | the same | GPUs of these capabilities  |
| graph is strongly typed    | by a flag              | always   | always                      |
| cache that saves time      | timing cache, to build | the same | runtime cache, to start     |
| CUDA graph                 | captured by the caller | the same | captured by itself          |
| float32 products on Turing | yes                    | yes      | no                          |

Needs neither PyTorch nor mmdet.
"""

import logging
import re
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import List, Optional, Sequence, Tuple

from .extras import how_to_install

# flavour -> names under which its module can be there, title. The first that is there is taken:
# on the GPU that it is for, `tensorrt` tries kernels out instead of estimating them.
FLAVOURS = {
    'tensorrt': (('tensorrt', 'tensorrt_bindings'), 'TensorRT'),
    'tensorrt_rtx': (('tensorrt_rtx', 'tensorrt_rtx_bindings'), 'TensorRT-RTX'),
}
OLDEST = 10  # of `tensorrt`: the first with INT64 outputs
INSTALL = (
    f'{how_to_install("tensorrt")} (TensorRT-RTX, which builds engines without a GPU, too), or, on '
    'the machine with the GPU, pip install tensorrt'
)
LOGGER = logging.getLogger('deim_mmdet.tensorrt')
# Whoever wants its messages on the screen adds a handler.
LOGGER.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class TensorRT:
    """One of the two libraries.

    Attributes:
        flavour (str): 'tensorrt' or 'tensorrt_rtx'.
        module (ModuleType): Its Python module.
    """

    flavour: str
    module: ModuleType

    @property
    def version(self) -> str:
        return self.module.__version__

    @property
    def name(self) -> str:
        """As 'TensorRT-RTX 1.7.1'."""
        return f'{FLAVOURS[self.flavour][1]} {self.version}'

    @property
    def is_rtx(self) -> bool:
        return self.flavour == 'tensorrt_rtx'

    # ---- building ----

    def create_network(self, builder):
        """An empty network whose types are those of the graph."""
        strongly_typed = self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(strongly_typed))

    def set_capabilities(self, config, capabilities: Optional[Sequence[str]]) -> None:
        """Aim at GPUs.

        Args:
            config (IBuilderConfig): Changed in place.
            capabilities (Sequence[str], optional): As '7.5'; None: that of the GPU at hand.

        Raises:
            ValueError: There is none that this library can build for.
        """
        if capabilities is None:
            targets = [self.module.ComputeCapability.CURRENT] if self.is_rtx else []
        else:
            targets = [self._capability(text) for text in self.check_capabilities(capabilities)]
        if targets:
            config.num_compute_capabilities = len(targets)
            for i, target in enumerate(targets):
                if not config.set_compute_capability(target, i):
                    raise ValueError(f'{self.name} cannot build for {", ".join(capabilities)}')

    def check_capabilities(self, capabilities: Sequence[str]) -> Tuple[str, ...]:
        """The same, each once.

        Raises:
            ValueError: One is unknown, or the library builds for the GPU at hand alone.
        """
        for text in capabilities:
            if not re.fullmatch(r'\d+\.\d', text):
                raise ValueError(
                    f'a compute capability is two numbers as 7.5 (T4) or 8.6, got {text!r}'
                )
        if not self.is_rtx:
            raise ValueError(
                f'{self.name} builds only for the GPU of the machine that it runs on, got the '
                f'compute capability {", ".join(capabilities)}: build on that GPU without it, or '
                f'take TensorRT-RTX ({how_to_install("tensorrt")}), whose engines need '
                'TensorRT-RTX to run'
            )
        unknown = [text for text in capabilities if text not in self.known_capabilities()]
        if unknown or not capabilities:
            raise ValueError(
                f'{self.name} builds for the compute capabilities '
                f'{", ".join(self.known_capabilities())}, got {", ".join(unknown) or "none"}'
            )
        return tuple(dict.fromkeys(capabilities))

    def known_capabilities(self) -> List[str]:
        """Those that :meth:`set_capabilities` can aim at."""
        names = getattr(getattr(self.module, 'ComputeCapability', None), '__members__', ())
        numbers = sorted(int(name[2:]) for name in names if re.fullmatch(r'SM\d+', name))
        return [f'{number // 10}.{number % 10}' for number in numbers]

    def _capability(self, text: str):
        return getattr(self.module.ComputeCapability, 'SM' + text.replace('.', ''))

    # ---- running ----

    def create_context(self, engine, runtime_cache: Optional[bytes] = None, cuda_graphs=True):
        """What runs an engine, and its cache of kernels (None where there is no such thing)."""
        if not self.is_rtx:
            return engine.create_execution_context(), None
        trt = self.module
        config = engine.create_runtime_config()
        if cuda_graphs:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # as fast in the second run as in the thousandth
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        cache = config.create_runtime_cache()
        if runtime_cache and not cache.deserialize(runtime_cache):
            LOGGER.info('kernels of another machine or version are compiled again')
        config.set_runtime_cache(cache)
        return engine.create_execution_context(config), cache

    def explain_invalid(self, runtime, plan: bytes) -> Optional[str]:
        """Why an engine cannot run here, as far as its first bytes tell; None: not known."""
        if not self.is_rtx:
            return None
        validity, diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])
        if validity != self.module.EngineValidity.INVALID:
            return None
        reasons = self.module.EngineInvalidityDiagnostics.__members__
        found = [name for name, flag in reasons.items() if int(flag) & int(diagnostics)]
        return ', '.join(found).lower().replace('_', ' ') or 'no reason given'

    def new_logger(self):
        """A logger of the library that hands messages to ours, and keeps errors.

        Its attribute ``errors`` (list[str]) holds what went wrong.
        """
        levels = {
            'INTERNAL_ERROR': logging.ERROR,
            'ERROR': logging.ERROR,
            'WARNING': logging.WARNING,
            'INFO': logging.INFO,
        }

        class Logger(self.module.ILogger):
            def __init__(self):
                # the bindings want it so, not by super()
                type(self).__mro__[1].__init__(self)
                self.errors = []

            def log(self, severity, message):
                level = levels.get(severity.name, logging.DEBUG)
                if level == logging.ERROR:
                    self.errors.append(message)
                LOGGER.log(level, '%s', message)

        return Logger()


def installed() -> List[TensorRT]:
    """All that are there, the preferred first.

    Raises:
        ImportError: One is there and cannot be loaded.
    """
    found = []
    for flavour, (names, _) in FLAVOURS.items():
        for name in names:
            try:
                module = import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:
                    raise
                continue
            found.append(TensorRT(flavour, module))
            break
    return found


def load(flavour: Optional[str] = None, ahead_of_time: bool = False) -> TensorRT:
    """Choose a library.

    Args:
        flavour (str, optional): 'tensorrt' or 'tensorrt_rtx'. Defaults to None: what can do it, the
            first of these two if both can.
        ahead_of_time (bool): It is to build for GPUs that are not there.

    Raises:
        ImportError: It is missing.
        ValueError: An unknown flavour, or a TensorRT that is too old.
    """
    if flavour is not None and flavour not in FLAVOURS:
        raise ValueError(f'flavour must be one of {", ".join(FLAVOURS)}, got {flavour!r}')
    there = installed()
    fitting = [trt for trt in there if flavour in (None, trt.flavour)]
    if not fitting:
        title = FLAVOURS[flavour][1] if flavour else 'TensorRT'
        others = f' ({", ".join(trt.name for trt in there)} is there)' if there else ''
        raise ImportError(f'{title} is missing{others}: {INSTALL}')
    chosen = next((trt for trt in fitting if trt.is_rtx), fitting[0]) if ahead_of_time else None
    chosen = chosen or fitting[0]
    if not chosen.is_rtx and int(chosen.version.split('.')[0]) < OLDEST:
        raise ValueError(f'TensorRT {OLDEST} or newer is needed, found {chosen.version}')
    return chosen
