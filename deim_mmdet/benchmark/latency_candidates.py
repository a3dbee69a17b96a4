# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What :mod:`.latency` times: one detector, by everything that can run it. Needs NumPy and what is
asked for. :mod:`.latency_config` and :mod:`.latency_files` say what there is."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Dict, Optional, Sequence, Union

import numpy as np

from deim_mmdet.deploy.detector import Detector
from deim_mmdet.deploy.metadata import KEY
from deim_mmdet.deploy.runners import Runner, open_runner
from deim_mmdet.deploy.runners.onnxruntime_runner import open_session
from deim_mmdet.deploy.runners.openvino_runner import OpenVINORunner

from .latency import Candidate, Protocol, Timer, host_timer

TITLES = dict(onnxruntime='ONNX Runtime', openvino='OpenVINO', tensorrt='TensorRT')


@dataclass(frozen=True)
class Request:
    """How candidates are wanted.

    Attributes:
        protocol (Protocol): Threads, size and batch.
        backends (Sequence[str], optional): Which; None: all that there are.
        device (str, optional): 'cpu' or 'cuda'; None: the GPU if there is one.
        precision (str, optional): Of a config, 'fp32' or 'fp16'; None: fp16 on GPUs alone.
    """

    protocol: Protocol
    backends: Optional[Sequence[str]] = None
    device: Optional[str] = None
    precision: Optional[str] = None


class DetectorOf(Detector):
    """Boxes from images by something that is open already.

    Args:
        runner (Runner): What runs the network.
    """

    def __init__(self, runner: Runner) -> None:
        self.path = runner.metadata.model
        self.runner = runner
        self.metadata = runner.metadata
        self.classes = self.metadata.classes
        self.hw = self.metadata.hw
        self.score_threshold = self.metadata.score_threshold


def exported_candidate(
    name: str,
    path: Union[str, os.PathLike],
    backend: str,
    protocol: Protocol,
    device: str = 'cpu',
) -> Candidate:
    """An exported file.

    Without post-processing it is timed where it is ONNX: the graph is cut for that.

    Args:
        name (str): What to call it.
        path (str | PathLike): What ``tools/export.py`` wrote.
        backend (str): See :func:`open_runner`.
        protocol (Protocol): Threads, size and batch.
        device (str): 'cuda' lets ONNX Runtime use the GPU, if its build can. Defaults to 'cpu'.

    Raises:
        ImportError: The backend is missing.
        ValueError: It does not run here, or not by this protocol.
    """
    options = {}
    if backend == 'onnxruntime' and device == 'cuda' and onnxruntime_has_cuda():
        options['providers'] = ('CUDAExecutionProvider', 'CPUExecutionProvider')
    open_graph = partial(open_runner, backend=backend, threads=protocol.threads, **options)
    runner, network = open_graph(path), None
    if Path(path).suffix == '.onnx':
        network = open_without_postprocessing(path, open_graph)
    return candidate(name, runner, network, protocol)


def foreign_candidate(name: str, path: Union[str, os.PathLike], protocol: Protocol) -> Candidate:
    """An ONNX file of another exporter, in ONNX Runtime on the CPU: how images are prepared for it
    is unknown, so the graph alone is timed.

    Its input of four dimensions gets noise, the others its size, as the published
    exports of DETRs want it.

    Args:
        name (str): What to call it.
        path (str | PathLike): The file.
        protocol (Protocol): Threads, size and batch.

    Raises:
        ImportError: onnx or ONNX Runtime is missing.
        ValueError: No ONNX file, or of another size or batch.
    """
    import onnx

    from deim_mmdet.deploy.without_postprocessing import without_postprocessing

    graphs = dict(detections=read_onnx(path))
    try:
        graphs = dict(network=without_postprocessing(graphs['detections']), **graphs)
    except ValueError:  # where its post-processing begins is unknown
        pass
    timers = {}
    for stage, model in graphs.items():
        session = open_session(model.SerializeToString(), protocol.threads)
        feeds = {value.name: foreign_input(name, value, protocol) for value in session.get_inputs()}
        timers[stage] = host_timer(partial(session.run, None, feeds))
    weights = {tensor.data_type for tensor in graphs['detections'].graph.initializer}
    is_half = onnx.TensorProto.FLOAT16 in weights
    return Candidate(name, 'float16' if is_half else 'float32', 'cpu', timers)


def read_onnx(path: Union[str, os.PathLike]):
    import onnx

    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf has a class of its own
        raise ValueError(f'{path} is no ONNX file: {error}') from None


def is_foreign(path: Union[str, os.PathLike]) -> bool:
    """Whether an ONNX file was written by another exporter than ``tools/export.py``."""
    return KEY not in [entry.key for entry in read_onnx(path).metadata_props]


def foreign_input(name: str, value, protocol: Protocol) -> np.ndarray:
    """A value for an input of ONNX Runtime."""
    kinds = {'tensor(float16)': np.float16, 'tensor(float)': np.float32, 'tensor(int64)': np.int64}
    if value.type not in kinds:
        raise ValueError(
            f'{name} has an input {value.name} of {value.type}; only {", ".join(kinds)} is made up'
        )
    is_image = len(value.shape) == 4
    shape = (protocol.batch_size, *((3, *protocol.hw) if is_image else (2,)))
    fits = len(shape) == len(value.shape) and all(
        not isinstance(side, int) or side == wanted for side, wanted in zip(value.shape, shape)
    )
    if not fits:
        raise ValueError(
            f'{name} takes {value.name} of {value.shape}, the protocol has {shape}: give --size '
            'and --batch-size that fit'
        )
    if is_image:
        return np.random.default_rng(0).random(shape).astype(kinds[value.type])
    return np.tile(protocol.hw[::-1], (protocol.batch_size, 1)).astype(kinds[value.type])


def candidate(
    name: str, runner: Runner, network: Optional[Runner], protocol: Protocol
) -> Candidate:
    """The stages of a detector.

    Args:
        name (str): What to call it.
        runner (Runner): The detector with post-processing.
        network (Runner, optional): The same without.
        protocol (Protocol): Size and batch.

    Raises:
        ValueError: It has another size or batch.
    """
    meta = runner.metadata
    if meta.hw != protocol.hw and not meta.dynamic_size:
        raise ValueError(
            f'{name} takes images of {meta.hw}, the protocol has {protocol.hw}: '
            f'--size {meta.hw[0]} {meta.hw[1]}'
        )
    if meta.batch_size not in (None, protocol.batch_size):
        raise ValueError(
            f'{name} takes {meta.batch_size} images, the protocol has {protocol.batch_size}: '
            f'--batch-size {meta.batch_size}'
        )
    detector = DetectorOf(runner)
    detector.hw = protocol.hw
    images = list(sample_images(protocol))
    feeds, _ = detector.feeds(images)
    timers: Dict[str, Timer] = {}
    if network is not None:
        timers['network'] = network_timer(network, feeds)
    timers['detections'] = network_timer(runner, feeds)
    timers['end to end'] = host_timer(partial(detector, images))
    by_device = set(timers) - {'end to end'} if hasattr(runner, 'gpu_times') else set()
    if runner.device == 'cpu':
        by_device = set()
    precision = meta.precision
    if isinstance(runner, OpenVINORunner) and precision == 'float16':
        precision = 'float32'  # float16 are the weights in the file, not what is computed
    return Candidate(name, precision, runner.device, timers, frozenset(by_device))


def network_timer(runner: Runner, feeds: Dict[str, np.ndarray]) -> Timer:
    """Of the network alone. On a GPU the inputs lie there already and the results stay there."""
    if runner.device == 'cpu':
        return host_timer(partial(runner.run, feeds))
    if hasattr(runner, 'gpu_times'):
        return partial(runner.gpu_times, feeds)
    return host_timer(bound_run(runner.session, feeds, runner.device))


def bound_run(session, feeds: Dict[str, np.ndarray], device: str):
    """A run of a session of ONNX Runtime that copies nothing; it returns when the GPU is done."""
    import onnxruntime

    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(
            name, onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0)
        )
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    return partial(session.run_with_iobinding, binding)


def open_without_postprocessing(path: Union[str, os.PathLike], open_graph) -> Runner:
    """The graph up to scores and boxes of all queries; needs onnx.

    Engines that are built of it are kept by what is in it: a file of its own is not needed later.
    """
    import tempfile

    import onnx

    from deim_mmdet.deploy.without_postprocessing import without_postprocessing

    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder, 'network.onnx')
        onnx.save(without_postprocessing(onnx.load(str(path))), cut)
        return open_graph(cut)


def onnxruntime_has_cuda() -> bool:
    import onnxruntime

    return 'CUDAExecutionProvider' in onnxruntime.get_available_providers()


def sample_images(protocol: Protocol) -> np.ndarray:
    """Noise, shape (batch_size, H, W, 3), uint8: the same in each run."""
    shape = (protocol.batch_size, *protocol.image_hw, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
