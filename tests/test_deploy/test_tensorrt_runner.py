# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The runner and the adapter, on a GPU of paper: see fake_tensorrt.py."""

import hashlib
import logging
import sys
import threading
import time

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.deploy import (  # noqa: E402
    Detector,
    ExportOptions,
    InputFormat,
    compare_with_pytorch,
    describe,
    export_onnx,
    open_runner,
    tensorrt_api,
    tensorrt_build,
    tensorrt_cache,
)
from deim_mmdet.deploy.cuda import Gpu, GpuError, open_gpu  # noqa: E402
from deim_mmdet.deploy.parity import compare  # noqa: E402
from deim_mmdet.deploy.runners import tensorrt_runner  # noqa: E402
from deim_mmdet.deploy.tensorrt_build import build_engine  # noqa: E402
from deim_mmdet.deploy.tensorrt_cache import cached_engine  # noqa: E402
from deim_mmdet.deploy.tensorrt_file import read_engine, why_not_here  # noqa: E402
from tests.absent import run_without  # noqa: E402
from tests.test_deploy.fake_tensorrt import FakeCuda, install  # noqa: E402
from tests.test_deploy.models import ATTO, config_of, detector_of, images, photograph  # noqa: E402

HW = (192, 192)
NAMES = ('boxes', 'scores', 'labels')


def write(path, **options):
    options = ExportOptions(HW, **options)
    export_onnx(
        detector_of(ATTO), path, options, describe(detector_of(ATTO), config_of(ATTO), options)
    )
    return path


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    return write(tmp_path_factory.mktemp('graph') / 'atto.onnx')


@pytest.fixture(scope='module')
def dynamic(tmp_path_factory):
    path = tmp_path_factory.mktemp('dynamic') / 'atto.onnx'
    return write(path, batch_size=None, dynamic_size=True)


def run_both(runner, path, batch):
    expected = open_runner(path, 'onnxruntime').run(dict(images=batch))
    found = runner.run(dict(images=batch))
    for name, value, other in zip(NAMES, expected, found):
        assert (value.dtype, value.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(value, other, err_msg=name)
    return found


# ---- from a graph --------------------------------------------------------------------------------


@pytest.mark.parametrize('version', ['10.16.1', '11.4.0'])
def test_detector_builds_once(version, graph, tmp_path, monkeypatch):
    cuda, modules = install(monkeypatch, tensorrt=version)
    trt = modules['tensorrt']
    photo = photograph()
    expected = Detector(graph, 0.0)(photo)
    for _ in range(2):
        detector = Detector(graph, 0.0, backend='tensorrt', engine_cache=tmp_path / 'engines')
        assert detector.runner.name == f'TensorRT {version}'
        for value, other in zip(expected, detector(photo)):
            np.testing.assert_array_equal(value, other)
    assert trt.builds == 1
    assert ('create_network', 1 << 1) in trt.calls  # strongly typed
    assert ('clear_flag', trt.BuilderFlag.TF32) in trt.calls
    assert ('set_timing_cache', b'measured') in trt.calls
    assert not any(call[0] == 'set_compute_capability' for call in trt.calls)
    files = sorted(path.name for path in (tmp_path / 'engines').iterdir())
    engine, description, lock, timing = files
    assert lock == f'{engine}.lock'
    assert engine.startswith(f'atto_float32_tensorrt-{version}_sm75_')
    assert description == f'{engine}.json'
    assert timing == f'timing_tensorrt-{version}_sm75_Tesla-T4.cache'
    info, _ = read_engine(tmp_path / 'engines' / engine)
    assert (info.gpu, info.compute_capabilities) == ('Tesla T4', ('7.5',))


def test_another_gpu_version_or_range_has_another_engine(dynamic, tmp_path, monkeypatch):
    for cuda, version in [
        (FakeCuda(), '10.1'),
        (FakeCuda(), '10.2'),
        (FakeCuda('NVIDIA L4', '8.9'), '10.1'),
        (FakeCuda('NVIDIA L40', '8.9'), '10.1'),
    ]:
        install(monkeypatch, cuda, tensorrt=version)
        open_runner(dynamic, 'tensorrt', engine_cache=tmp_path)
    open_runner(dynamic, 'tensorrt', engine_cache=tmp_path, shapes=dict(batch=(1, 1, 2)))
    assert len(list(tmp_path.glob('*.engine'))) == 5


def test_a_damaged_engine_in_the_cache_is_built_again(graph, tmp_path, monkeypatch, caplog):
    _, modules = install(monkeypatch, tensorrt='10.1')
    open_runner(graph, 'tensorrt', engine_cache=tmp_path)
    (path,) = tmp_path.glob('*.engine')
    path.write_bytes(path.read_bytes()[:100])
    open_runner(graph, 'tensorrt', engine_cache=tmp_path)
    assert modules['tensorrt'].builds == 2 and 'has 100 bytes' in caplog.text


def test_an_engine_is_built_once_at_a_time(graph, tmp_path, monkeypatch):
    """Of two that need it at once, one waits and takes what the other built."""
    _, modules = install(monkeypatch, tensorrt='10.1')
    real, building = tensorrt_build.build_plan, threading.Event()

    def slowly(*args):
        building.set()
        time.sleep(0.5)
        return real(*args)

    monkeypatch.setattr(tensorrt_build, 'build_plan', slowly)
    gpu, paths = Gpu(0, 'Tesla T4', '7.5'), []

    def build():
        paths.append(cached_engine(graph, gpu, tmp_path))

    threads = [threading.Thread(target=build) for _ in range(2)]
    threads[0].start()
    assert building.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2 and paths[0] == paths[1]
    assert modules['tensorrt'].builds == 1
    read_engine(paths[0])


def test_an_engine_that_is_there_needs_no_lock(graph, tmp_path, monkeypatch):
    """As in a folder that nobody may write to."""
    install(monkeypatch, tensorrt='10.1')
    gpu = Gpu(0, 'Tesla T4', '7.5')
    path = cached_engine(graph, gpu, tmp_path)
    monkeypatch.setattr(tensorrt_cache, 'locked', None)
    assert cached_engine(graph, gpu, tmp_path) == path


def test_timing_cache(graph, tmp_path, monkeypatch):
    """Completed where TensorRT takes it; any other file stays as it is."""
    _, modules = install(monkeypatch, tensorrt='10.1')
    cache = tmp_path / 'timing'
    cache.touch()
    for i in range(2):
        build_engine(graph, tmp_path / f'{i}.engine', timing_cache=cache)
        assert cache.read_bytes() == b'measured' * (i + 1)
    modules['tensorrt'].timing_fits = False
    cache.write_bytes(b'my weights')
    with pytest.raises(ValueError, match='timing is no timing cache of this GPU .* another file'):
        build_engine(graph, tmp_path / 'no.engine', timing_cache=cache)
    assert cache.read_bytes() == b'my weights' and not (tmp_path / 'no.engine').exists()


def test_a_damaged_timing_cache_of_ours_is_measured_again(graph, tmp_path, monkeypatch, caplog):
    _, modules = install(monkeypatch, tensorrt='10.1')
    name = 'timing_tensorrt-10.1_sm75_Tesla-T4.cache'
    (tmp_path / name).write_bytes(b'damaged')
    modules['tensorrt'].timing_fits = False
    open_runner(graph, 'tensorrt', engine_cache=tmp_path)
    assert (tmp_path / name).read_bytes() == b'measured'
    assert f'{name} is damaged: everything is measured again' in caplog.text


def test_a_graph_that_cannot_be_built(graph, tmp_path, monkeypatch):
    install(monkeypatch, tensorrt='10.1')
    real = tensorrt_build.read_graph(graph)
    monkeypatch.setattr(tensorrt_build, 'read_graph', lambda p: real._replace(data=b'impossible'))
    with pytest.raises(
        ValueError, match='TensorRT 10.1 cannot build an engine .*: no kernel for this'
    ):
        build_engine(graph, tmp_path / 'a.engine')
    assert list(tmp_path.iterdir()) == []


# ---- running -------------------------------------------------------------------------------------


def test_one_copy_in_one_launch_one_copy_out(graph, tmp_path, monkeypatch):
    cuda, _ = install(monkeypatch, tensorrt='10.1')
    runner = open_runner(graph, 'tensorrt', engine_cache=tmp_path)
    first, second = images(HW), images(HW, seed=5)
    kept = run_both(runner, graph, first)
    copies = [value.copy() for value in kept]
    # the first run is made twice, once of them recorded
    assert [c for c in cuda.calls if c not in ('up', 'down')] == [
        'execute',
        'execute',
        'capture',
        'launch',
    ]
    cuda.calls.clear()
    run_both(runner, graph, second)
    assert cuda.calls == ['up', 'launch', 'down', 'down', 'down']
    for value, copy in zip(kept, copies):  # of the first run
        np.testing.assert_array_equal(value, copy)
    assert runner.gpu_times(dict(images=first), 3) == [2.5] * 3
    with pytest.raises(TypeError, match='images must be float32, got float64'):
        runner.run(dict(images=first.astype(float)))
    with pytest.raises(ValueError, match='input images is missing, got image'):
        runner.run(dict(image=first))
    with pytest.raises(ValueError, match=r'of shape \(1, 3, 192, 192\), got \(2, 3, 192, 192\)'):
        runner.run(dict(images=images(HW, 2)))


def test_each_shape_has_its_graph(dynamic, tmp_path, monkeypatch):
    cuda, _ = install(monkeypatch, tensorrt='10.1')
    monkeypatch.setattr(tensorrt_runner, 'MAX_SHAPES', 2)
    runner = open_runner(dynamic, 'tensorrt', engine_cache=tmp_path, shapes=dict(batch=(1, 2, 4)))
    one, two, wide = images(HW), images(HW, 2), images((192, 224))
    run_both(runner, dynamic, one)
    buffers = len(cuda.memory)
    for batch in (two, one, two):
        run_both(runner, dynamic, batch)
    assert cuda.calls.count('capture') == 2 and len(cuda.memory) == 2 * buffers
    run_both(runner, dynamic, wide)  # the longest unused goes
    run_both(runner, dynamic, two)
    assert cuda.calls.count('capture') == 3 and len(cuda.memory) == 2 * buffers
    run_both(runner, dynamic, one)
    assert cuda.calls.count('capture') == 4
    message = r'from \(1, 3, 96, 96\) to \(4, 3, 288, 288\), got \(5, 3, 192, 192\)'
    with pytest.raises(ValueError, match=message):
        runner.run(dict(images=images(HW, 5)))
    del runner
    assert not cuda.memory


def test_no_more_images_at_once_than_the_engine_takes(dynamic, tmp_path, monkeypatch):
    install(monkeypatch, tensorrt='10.1')
    options = dict(engine_cache=tmp_path, shapes=dict(batch=(1, 2, 2)))
    detector = Detector(dynamic, 0.0, backend='tensorrt', **options)
    photos = [np.full(HW + (3,), grey, np.uint8) for grey in (0, 90, 180)]
    for found, expected in zip(detector(photos), Detector(dynamic, 0.0)(photos)):
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize(('count', 'smallest'), [(1, 4), (2, 4), (9, 4)])
def test_no_fewer_images_at_once_than_the_engine_takes(
    dynamic, tmp_path, monkeypatch, count, smallest
):
    """One image, and the last few of many; the comparison of tools/export.py feeds one, too."""
    install(monkeypatch, tensorrt='10.1')
    options = dict(engine_cache=tmp_path, shapes=dict(batch=(smallest, 8, 8)))
    detector = Detector(dynamic, 0.0, backend='tensorrt', **options)
    photo = photograph(*HW)
    expected = Detector(dynamic, 0.0)(photo)
    results = detector([photo] * count)
    assert len(results) == count
    for found in results:
        assert compare(expected, found).within(1e-2, 1e-5)
    assert compare_with_pytorch(detector_of(ATTO), detector, [photo]).within(0.1, 1e-4)


# fmt: off
FAILURES = [
    # what fails,  message
    ('shape',      r'TensorRT 10.1: images cannot be of shape \(1, 3, 192, 192\)'),
    ('address',    'TensorRT 10.1: images cannot be at its address'),
    ('run',        'TensorRT: the run failed'),
]
# fmt: on


@pytest.mark.parametrize(('refused', 'message'), FAILURES)
def test_a_failure_of_the_gpu(graph, tmp_path, monkeypatch, refused, message):
    _, modules = install(monkeypatch, tensorrt='10.1')
    runner = open_runner(graph, 'tensorrt', engine_cache=tmp_path)
    modules['tensorrt'].refused.add(refused)
    with pytest.raises(GpuError, match=message):
        runner.run(dict(images=images(HW)))


def test_full_memory_of_the_gpu_is_no_traceback(graph, tmp_path, monkeypatch):
    """The tools tell OSError and ValueError as they are."""
    cuda, _ = install(monkeypatch, tensorrt='10.1')
    runner = open_runner(graph, 'tensorrt', engine_cache=tmp_path)
    cuda.room = 1000
    with pytest.raises(OSError, match='CUDA: cudaErrorMemoryAllocation: in words'):
        runner.run(dict(images=images(HW)))


def test_without_graphs(graph, tmp_path, monkeypatch, caplog):
    cuda, _ = install(monkeypatch, tensorrt='10.1')
    runner = open_runner(graph, 'tensorrt', engine_cache=tmp_path, cuda_graphs=False)
    run_both(runner, graph, images(HW))
    assert 'capture' not in cuda.calls and cuda.calls.count('execute') == 2
    cuda.can_capture = False
    runner = open_runner(graph, 'tensorrt', engine_cache=tmp_path)
    run_both(runner, graph, images(HW))
    assert 'cannot become a CUDA graph: CUDA: cudaErrorStreamCaptureInvalidated' in caplog.text


def test_bytes_and_original_size(tmp_path, monkeypatch):
    install(monkeypatch, tensorrt='10.1')
    path = write(
        tmp_path / 'm.onnx', input_format=InputFormat('uint8', 'nhwc', 'bgr', original_size=True)
    )
    runner = open_runner(path, 'tensorrt', engine_cache=tmp_path)
    batch = (images(HW) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    feeds = dict(images=batch, original_hw=np.float32([[480, 640]]))
    for value, other in zip(open_runner(path).run(feeds), runner.run(feeds)):
        np.testing.assert_array_equal(value, other)


def test_rtx_captures_and_keeps_kernels(graph, tmp_path, monkeypatch):
    cuda, modules = install(monkeypatch, FakeCuda('RTX 3060', '8.6'), tensorrt_rtx='1.7')
    trt = modules['tensorrt_rtx']
    for _ in range(2):
        runner = open_runner(graph, 'tensorrt', engine_cache=tmp_path)
        run_both(runner, graph, images(HW))
    assert runner.name == 'TensorRT-RTX 1.7' and runner.info.gpu is None
    assert ('set_compute_capability', trt.ComputeCapability.CURRENT, 0) in trt.calls
    assert ('cuda_graph_strategy', trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE) in trt.calls
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert ('dynamic_shapes_kernel_specialization_strategy', eager) in trt.calls
    assert trt.calls.count(('kernels', b'kernels')) == 1  # by the second runner
    assert 'capture' not in cuda.calls
    assert {path.suffix for path in tmp_path.iterdir()} == {
        '.engine',
        '.json',
        '.kernels',
        '.lock',
    }


# ---- engines that do not run here ----------------------------------------------------------------


def forge(engine, old, new):
    """Change an engine and what its description says about its bytes."""
    plan = engine.read_bytes()
    changed = plan.replace(old, new)
    assert changed != plan and len(changed) == len(plan)
    engine.write_bytes(changed)
    description = engine.with_name(f'{engine.name}.json')
    hashes = [hashlib.sha256(data).hexdigest() for data in (plan, changed)]
    text = description.read_text()
    assert hashes[0] in text
    description.write_text(text.replace(*hashes))


@pytest.fixture
def engine(graph, tmp_path, monkeypatch):
    install(monkeypatch, tensorrt='10.1')
    build_engine(graph, tmp_path / 'm.engine')
    return tmp_path / 'm.engine'


# fmt: off
ELSEWHERE = [
    # GPU, what is installed, message
    (('NVIDIA L4', '8.9'), dict(tensorrt='10.1'),
     'is for GPUs of compute capability 7.5; here is NVIDIA L4, compute capability 8.9. Build it'),
    (('GeForce RTX 2080', '7.5'), dict(tensorrt='10.1'),
     'was built on Tesla T4, for GPUs of that model; here is GeForce RTX 2080. Build it again'),
    (('Tesla T4', '7.5'), dict(tensorrt='10.2'),
     'was built by TensorRT 10.1, which alone can run it; here is TensorRT 10.2. Build it again'),
    (('Tesla T4', '7.5'), dict(tensorrt_rtx='1.7'),
     'was built by TensorRT 10.1, which alone can run it; here is TensorRT-RTX 1.7. Build it'),
]
# fmt: on


@pytest.mark.parametrize(('gpu', 'versions', 'message'), ELSEWHERE)
def test_engine_of_another_machine(gpu, versions, message, engine, graph, tmp_path, monkeypatch):
    install(monkeypatch, FakeCuda(*gpu), **versions)
    with pytest.raises(ValueError, match=message):
        Detector(engine)
    if gpu[1] == '7.5' and 'tensorrt_rtx' in versions:
        return  # which has no float32 products there
    before = engine.read_bytes()
    runner = open_runner(engine, onnx=graph, engine_cache=tmp_path / 'cache')
    run_both(runner, graph, images(HW))
    assert engine.read_bytes() == before and len(list((tmp_path / 'cache').glob('*.engine'))) == 1


def test_another_graph_than_the_engines(engine, dynamic, tmp_path, monkeypatch):
    install(monkeypatch, FakeCuda('NVIDIA L4', '8.9'), tensorrt='10.1')
    message = 'atto.onnx is not the graph that .*m.engine was built of .*: give that one, or open'
    with pytest.raises(ValueError, match=message):
        open_runner(engine, onnx=dynamic, engine_cache=tmp_path / 'cache')
    with pytest.raises(FileNotFoundError, match='no.onnx: no such file'):
        open_runner(engine, onnx=tmp_path / 'no.onnx')
    assert not (tmp_path / 'cache').exists()


def test_damaged_files(engine, graph, tmp_path, monkeypatch):
    description = engine.with_name('m.engine.json')
    text, plan = description.read_text(), engine.read_bytes()
    engine.write_bytes(plan[:1000])
    with pytest.raises(
        ValueError, match=f'm.engine has 1000 bytes, m.engine.json says {len(plan)}'
    ):
        Detector(engine)
    engine.write_bytes(b'x' * len(plan))
    with pytest.raises(
        ValueError, match='m.engine is damaged, or another .* than m.engine.json tells of. Copy'
    ):
        Detector(engine)
    open_runner(engine, onnx=graph, engine_cache=tmp_path / 'cache')
    engine.write_bytes(plan)
    forge(engine, b'["tensorrt"]', b'["tenserrt"]')
    with pytest.raises(ValueError, match='TensorRT 10.1 cannot run .* on Tesla T4.*: magic tag'):
        Detector(engine)
    without = ''.join(line for line in text.splitlines(True) if '"size"' not in line)
    for bad, message in [
        (without, 'does not state size. Build it again'),
        (text.replace('"format": 1', '"format": 9', 1), 'is of format 9, .* reads format 1'),
        ('{}', 'm.engine.json was not written by deim_mmdet'),
        ('[1]', 'm.engine.json was not written by deim_mmdet'),
        ('no json', 'm.engine.json was not written by deim_mmdet'),
    ]:
        description.write_text(bad)
        with pytest.raises(ValueError, match=message):
            Detector(engine)
    description.unlink()
    with pytest.raises(ValueError, match='m.engine.json is missing.*: copy both files. Build it'):
        Detector(engine)
    engine.unlink()
    with pytest.raises(FileNotFoundError, match='m.engine: no such file'):
        Detector(engine)


def test_rtx_says_why(graph, tmp_path, monkeypatch):
    install(monkeypatch, FakeCuda('RTX 3060', '8.6'), tensorrt_rtx='1.7')
    build_engine(graph, tmp_path / 'm.engine')
    forge(tmp_path / 'm.engine', b'tensorrt_rtx', b'tensorrt_rty')
    with pytest.raises(
        ValueError, match='on RTX 3060.*: version mismatch; magic tag does not match'
    ):
        Detector(tmp_path / 'm.engine')


def test_no_gpu(engine, graph, tmp_path, monkeypatch):
    install(monkeypatch, FakeCuda(count=0), tensorrt='10.1')
    message = 'no NVIDIA GPU can be used here: cudaErrorNoDevice: in words; nvidia-smi shows'
    gpu = 'm.engine runs on GPUs of compute capability 7.5: '
    for path, text in ((engine, f'{gpu}{message}.*, open the .onnx'), (graph, f'^{message}')):
        with pytest.raises(ValueError, match=text):
            Detector(path, backend='tensorrt')
    with pytest.raises(ValueError, match=message + '.* name its compute capability'):
        build_engine(graph, tmp_path / 'new.engine')
    install(monkeypatch, FakeCuda(count=1), tensorrt='10.1')
    with pytest.raises(ValueError, match='there is no GPU 1, but 1, counted from 0'):
        Detector(engine, device=1)
    monkeypatch.setitem(sys.modules, 'cuda.bindings', None)
    with pytest.raises(
        ImportError, match=rf"{gpu}cuda-bindings is missing, .* pip install '\.\[tensorrt\]'"
    ):
        Detector(engine)


# fmt: off
DRIVERS = [
    # CUDA of the driver, message
    (0,     'its driver is not installed$'),
    (11080, "the driver is of CUDA 11, cuda-bindings of CUDA 12: pip install 'cuda-bindings<12'$"),
    (12040, 'cudaErrorNoDevice: in words; nvidia-smi shows'),
    (13000, 'cudaErrorNoDevice: in words; nvidia-smi shows'),
]
# fmt: on


@pytest.mark.parametrize(('version', 'message'), DRIVERS)
def test_drivers(monkeypatch, version, message):
    cuda, _ = install(monkeypatch, FakeCuda(count=0))
    monkeypatch.setattr(cuda, 'driver', version)
    with pytest.raises(ValueError, match=f'no NVIDIA GPU can be used here: {message}'):
        open_gpu()


def test_a_gpu_that_fails_is_no_place_for_an_engine(engine, monkeypatch):
    cuda, _ = install(monkeypatch, tensorrt='10.1')
    assert why_not_here(engine) is None
    busy = cuda.cudaError_t.cudaErrorMemoryAllocation
    monkeypatch.setattr(cuda, 'cudaSetDevice', lambda index: (busy,))
    assert why_not_here(engine) == 'CUDA: cudaErrorMemoryAllocation: in words'


# ---- which of them -------------------------------------------------------------------------------


def test_choice(monkeypatch):
    install(monkeypatch, tensorrt='11.4', tensorrt_rtx='1.7')
    assert [trt.name for trt in tensorrt_api.installed()] == ['TensorRT 11.4', 'TensorRT-RTX 1.7']
    assert tensorrt_api.load().flavour == 'tensorrt'
    assert tensorrt_api.load(ahead_of_time=True).flavour == 'tensorrt_rtx'
    assert tensorrt_api.load('tensorrt', ahead_of_time=True).flavour == 'tensorrt'
    assert tensorrt_api.load('tensorrt_rtx').known_capabilities() == ['7.5', '8.6', '12.0']
    install(monkeypatch, tensorrt='10.1')
    with pytest.raises(
        ImportError, match=r'TensorRT-RTX is missing \(TensorRT 10.1 is there\): in'
    ):
        tensorrt_api.load('tensorrt_rtx')
    install(monkeypatch)
    with pytest.raises(ImportError, match=r"TensorRT is missing: .*pip install '\.\[tensorrt\]'"):
        tensorrt_api.load()
    install(monkeypatch, tensorrt='8.6.1')
    with pytest.raises(ValueError, match='TensorRT 10 or newer is needed, found 8.6.1'):
        tensorrt_api.load()


def test_tensorrt_builds_for_the_gpu_at_hand_alone(graph, tmp_path, monkeypatch):
    install(monkeypatch, tensorrt='10.1')
    message = (
        'TensorRT 10.1 builds only for the GPU of the machine .* got the compute capability 7.5'
    )
    with pytest.raises(ValueError, match=message):
        build_engine(graph, tmp_path / 'a.engine', ['7.5'])
    assert list(tmp_path.iterdir()) == []


def test_messages_go_to_the_logger(graph, tmp_path, monkeypatch, caplog, capfd):
    install(monkeypatch, tensorrt='10.1')
    with caplog.at_level(logging.INFO):
        build_engine(graph, tmp_path / 'a.engine')
    assert ('deim_mmdet.tensorrt', logging.WARNING, 'labels are INT64') in caplog.record_tuples
    assert capfd.readouterr() == ('', '')


def test_needs_no_pytorch():
    code = """
from deim_mmdet.deploy.runners.tensorrt_runner import TensorRTRunner
print(TensorRTRunner.__name__)
"""
    absent = ('torch', 'mmdet', 'mmcv', 'mmcv-lite', 'mmengine', 'onnx', 'tensorrt', 'cuda')
    assert run_without(absent, code) == 'TensorRTRunner\n'
