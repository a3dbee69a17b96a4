# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""One interface to what runs exported files; OpenVINO's own files."""

import shutil
import sys
from functools import partial

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
openvino = pytest.importorskip('openvino')

from deim_mmdet.deploy import (  # noqa: E402
    Detector,
    ExportOptions,
    compare_with_pytorch,
    describe,
    export_onnx,
    export_openvino,
    open_runner,
)
from deim_mmdet.deploy.metadata import KEY  # noqa: E402
from deim_mmdet.deploy.parity import compare  # noqa: E402
from deim_mmdet.deploy.runners import onnxruntime_runner  # noqa: E402
from deim_mmdet.deploy.runners.onnxruntime_runner import open_session  # noqa: E402
from tests.absent import run_without  # noqa: E402
from tests.test_deploy.models import ATTO, config_of, detector_of, images, photograph  # noqa: E402

HW = (192, 192)
# What training and export need, and running does not.
NO_TRAINING = ['torch', 'mmdet', 'mmcv', 'mmcv-lite', 'mmengine', 'onnx']
CLASSES = tuple('0123456789')


def write(path, **options):
    options = ExportOptions(HW, **options)
    detector = detector_of(ATTO)
    metadata = describe(detector, config_of(ATTO), options, CLASSES, score_threshold=0.0)
    export_onnx(detector, path, options, metadata)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """static.onnx, any.onnx (batch and size), static.xml, half.xml."""
    folder = tmp_path_factory.mktemp('exported')
    write(folder / 'static.onnx')
    write(folder / 'any.onnx', batch_size=None, dynamic_size=True)
    export_openvino(folder / 'static.onnx', folder / 'static.xml')
    export_openvino(folder / 'static.onnx', folder / 'half.xml', half=True)
    return folder


@pytest.fixture
def photo():
    return photograph()


# ---- what they have in common --------------------------------------------------------------------

# fmt: off
BACKENDS = [
    # file, backend, name
    ('static.onnx', None,          'ONNX Runtime '),
    ('static.onnx', 'openvino',    'OpenVINO '),
    ('static.xml',  None,          'OpenVINO '),
    ('half.xml',    None,          'OpenVINO '),
]
# fmt: on


@pytest.mark.parametrize(('name', 'backend', 'title'), BACKENDS)
def test_same_detections(folder, photo, name, backend, title):
    """By the ending or by name: boxes, scores and labels of the right types, like PyTorch's."""
    detector = Detector(folder / name, backend=backend, threads=1)
    assert detector.runner.name.startswith(title)
    assert detector.metadata.classes == CLASSES and detector.metadata.hw == HW
    outputs = detector.runner.run(detector.feeds([photo])[0])
    assert [value.dtype for value in outputs] == [np.float32, np.float32, np.int64]
    assert [value.shape for value in outputs] == [(1, 100, 4), (1, 100), (1, 100)]
    if name != 'half.xml':  # the random weights of the test decide among equal scores
        difference = compare_with_pytorch(detector_of(ATTO), detector, [photo])
        assert difference.within(0.1, 1e-4), str(difference)


def test_device_is_where_it_runs(folder, monkeypatch):
    """ONNX Runtime goes on with the CPU where CUDA's libraries are missing."""
    gpu, cpu = 'CUDAExecutionProvider', 'CPUExecutionProvider'
    monkeypatch.setattr('onnxruntime.get_available_providers', lambda: [gpu, cpu])
    session = open_session(folder / 'static.onnx')
    monkeypatch.setattr(onnxruntime_runner, 'open_session', lambda *args: session)
    for running, device in (([cpu], 'cpu'), ([gpu, cpu], 'cuda')):
        monkeypatch.setattr(session, 'get_providers', lambda running=running: running)
        assert open_runner(folder / 'static.onnx', providers=[gpu, cpu]).device == device


def test_results_stay_as_they_are(folder):
    """A later run does not write into what an earlier one returned."""
    for backend in ('onnxruntime', 'openvino'):
        runner = open_runner(folder / 'static.onnx', backend)
        first = runner.run(dict(images=images(HW)))
        copies = [value.copy() for value in first]
        runner.run(dict(images=images(HW, seed=1)))
        for value, copied in zip(first, copies):
            np.testing.assert_array_equal(value, copied)


def test_any_batch_and_size_of_openvino(folder, tmp_path):
    export_openvino(folder / 'any.onnx', tmp_path / 'any.xml')
    expected, found = (open_runner(path) for path in (folder / 'any.onnx', tmp_path / 'any.xml'))
    for count, hw in ((1, HW), (3, HW), (2, (224, 160))):
        feeds = dict(images=images(hw, count))
        one, other = expected.run(feeds), found.run(feeds)
        np.testing.assert_allclose(one[1], other[1], atol=1e-4)
        # rounding decides which of two like scores comes first
        for image in range(count):
            difference = compare(*([value[image] for value in values] for values in (one, other)))
            assert difference.within(1e-2, 1e-4), str(difference)


def test_batches_of_any_number_by_openvino(folder, photo, tmp_path):
    """More images than go through the graph together, and fewer."""
    write(tmp_path / 'two.onnx', batch_size=2)
    export_openvino(tmp_path / 'two.onnx', tmp_path / 'two.xml')
    flipped = np.ascontiguousarray(photo[:, ::-1])
    alone, pairs = Detector(folder / 'static.xml'), Detector(tmp_path / 'two.xml')
    for image, found in zip((photo, flipped, photo), pairs([photo, flipped, photo])):
        np.testing.assert_allclose(alone(image).scores, found.scores, atol=1e-5)
    assert pairs.draw(photo).shape == photo.shape


SIGNAL = """
import os, signal
from deim_mmdet.deploy import open_runner

first, second = (open_runner({path!r}, 'openvino', threads=1) for _ in range(2))
del first
del second
signal.signal(signal.SIGINT, lambda *_: print('handled'))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')
def test_signals_arrive_after_openvino(folder):
    """A Core of OpenVINO for each of them would leave a signal stack that is freed."""
    said = run_without(NO_TRAINING, SIGNAL.format(path=str(folder / 'static.onnx')))
    assert said == 'handled\n'


# ---- OpenVINO's own files ------------------------------------------------------------------------


def test_half_has_half_the_weights(folder):
    sizes = [(folder / name).stat().st_size for name in ('static.bin', 'half.bin')]
    assert sizes[1] < 0.6 * sizes[0]


def test_metadata_stands_where_others_find_it(folder):
    model = openvino.Core().read_model(str(folder / 'static.xml'))
    text = model.get_rt_info([KEY]).astype(str)
    assert '"classes": ["0", "1"' in text
    with pytest.raises(ValueError, match=r'reads graphs from files \*.xml, got .*m.bin'):
        export_openvino(folder / 'static.onnx', folder / 'm.bin')


def test_both_files_or_neither(folder, tmp_path):
    def check(path):
        assert path.is_file() and path.with_suffix('.bin').is_file()
        Detector(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_openvino(folder / 'static.onnx', tmp_path / 'm.xml', check=check)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'm.bin').write_text('mine')
    with pytest.raises(FileExistsError, match='m.bin exists'):
        export_openvino(folder / 'static.onnx', tmp_path / 'm.xml')
    assert [path.name for path in tmp_path.iterdir()] == ['m.bin']
    export_openvino(folder / 'static.onnx', tmp_path / 'm.xml', overwrite=True)
    # a failure later leaves what was there
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        export_openvino(folder / 'static.onnx', tmp_path / 'm.xml', check=check, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- what is not there ---------------------------------------------------------------------------

ALONE_CODE = """
import numpy as np
from deim_mmdet.deploy import Detector

detector = Detector({path!r}, backend={backend!r})
image = np.zeros((50, 60, 3), np.uint8)
print(len(detector([image, image])[1].scores), detector.draw(image).shape)
import deim_mmdet
try:
    deim_mmdet.models
except ImportError as error:
    print(error)
"""
# file, backend, backends that are missing
ALONE = [
    ('static.onnx', 'onnxruntime', ['openvino', 'tensorrt', 'tensorrt_rtx']),
    ('static.xml', 'openvino', ['onnxruntime', 'tensorrt', 'tensorrt_rtx']),
]


@pytest.mark.parametrize(('name', 'backend', 'absent'), ALONE)
def test_runs_without_pytorch_mmdet_and_other_backends(folder, name, backend, absent):
    code = ALONE_CODE.format(path=str(folder / name), backend=backend)
    said = run_without([*NO_TRAINING, *absent], code)
    assert said.startswith('100 (50, 60, 3)\n')
    assert 'torch>=2.0 is needed, found none' in said


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_a_missing_backend_names_the_extra(folder, monkeypatch, backend):
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(ImportError, match=rf"{backend} is missing: .*'\.\[deploy\]'"):
        Detector(folder / 'static.onnx', backend=backend)


# ---- bad input -----------------------------------------------------------------------------------

# fmt: off
BAD = [
    (dict(threads=1),                               FileNotFoundError, 'm.onnx: no such file'),
    (dict(backend='caffe'),                         ValueError, "openvino, tensorrt, got 'caffe'"),
    (dict(threads=0),                               ValueError, 'at least 1, got 0'),
]
BAD_OPTIONS = [
    (dict(device='CPU'),                            TypeError,  'providers, not device'),
    (dict(backend='openvino', providers=[]),        TypeError,
     'device, inference_precision, not providers'),
    (dict(backend='openvino', device='TPU'),        ValueError, r'on TPU \(it has CPU'),
    (dict(backend='openvino', inference_precision='f9'), ValueError, 'Wrong value f9'),
    (dict(hw=(100, 192)),                           ValueError, 'multiples of 32, not 100 x 192'),
]
# fmt: on


@pytest.mark.parametrize(('options', 'error', 'message'), BAD)
def test_bad_arguments(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        open_runner(tmp_path / 'm.onnx', **options)


@pytest.mark.parametrize(('options', 'error', 'message'), BAD_OPTIONS)
def test_bad_options(folder, options, error, message):
    with pytest.raises(error, match=message):
        Detector(folder / 'any.onnx', **options)


def test_unknown_endings(tmp_path):
    with pytest.raises(
        ValueError, match=r'no backend runs \*.pt by default, known are .onnx, .xml'
    ):
        open_runner(tmp_path / 'm.pt')
    with pytest.raises(ValueError, match='is a folder; give the exported file: .onnx, .xml'):
        open_runner(tmp_path)


def cut(path, part):
    """Only the beginning is left."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])


def flip(path):
    """One bit in the middle is another."""
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


# fmt: off
DAMAGES = [
    # opened file, damaged file, damage, message
    ('m.onnx', 'm.onnx', partial(cut, part=0),    'm.onnx is empty: copy it again, or export'),
    ('m.onnx', 'm.onnx', partial(cut, part=0.99), 'no ONNX file'),
    ('m.xml',  'm.xml',  partial(cut, part=0),    'm.xml is empty'),
    ('m.xml',  'm.xml',  partial(cut, part=0.99), 'no file that OpenVINO can read'),
    ('m.xml',  'm.bin',  partial(cut, part=0),    'no file that OpenVINO can read'),
    ('m.xml',  'm.bin',  partial(cut, part=0.99), 'needs the .bin of the same name'),
    ('m.xml',  'm.bin',  lambda path: path.unlink(), 'needs the .bin of the same name'),
    ('m.xml',  'm.bin',  flip,                    'm.bin does not belong to .*m.xml, or'),
]
# fmt: on


@pytest.mark.parametrize(('opened', 'damaged', 'damage', 'message'), DAMAGES)
def test_damaged_files(folder, tmp_path, opened, damaged, damage, message):
    for name in ('onnx', 'xml', 'bin'):
        shutil.copy(folder / f'static.{name}', tmp_path / f'm.{name}')
    damage(tmp_path / damaged)
    with pytest.raises(ValueError, match=message):
        Detector(tmp_path / opened)
    if opened == 'm.onnx':
        with pytest.raises(ValueError, match='is empty|no file that OpenVINO can read'):
            Detector(tmp_path / opened, backend='openvino')


def test_openvino_does_not_run_int8(folder, tmp_path):
    """It would compute something else, without a word."""
    graph = onnx.load(folder / 'static.onnx')
    (entry,) = [entry for entry in graph.metadata_props if entry.key == KEY]
    entry.value = entry.value.replace('"float32"', '"int8"')
    onnx.save(graph, tmp_path / 'int8.onnx')
    assert Detector(tmp_path / 'int8.onnx').metadata.precision == 'int8'
    with pytest.raises(ValueError, match='int8.onnx is in int8, .* with ONNX Runtime .* NNCF'):
        Detector(tmp_path / 'int8.onnx', backend='openvino')


def test_files_of_other_versions_and_programs(folder, tmp_path):
    graph = onnx.load(folder / 'static.onnx')
    text = graph.metadata_props[0].value
    # fmt: off
    texts = [
        (text.replace('"format": 1', '"format": 99'), 'in format 99, this version reads format 1'),
        (text.replace('"pad_value"', '"grey"'),       'did not state pad_value. Export'),
        ('{"format',                                  'says nothing legible about itself'),
        ('',                                          'was not written by tools/export.py'),
    ]
    # fmt: on
    for i, (value, message) in enumerate(texts):
        graph.metadata_props[0].value = value
        onnx.save(graph, tmp_path / f'{i}.onnx')
        for backend in ('onnxruntime', 'openvino'):
            with pytest.raises(ValueError, match=message):
                Detector(tmp_path / f'{i}.onnx', backend=backend)
        with pytest.raises(ValueError, match=message):
            export_openvino(tmp_path / f'{i}.onnx', tmp_path / f'{i}.xml')
    assert not list(tmp_path.glob('*.xml'))
