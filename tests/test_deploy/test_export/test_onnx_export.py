# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Exported graphs compute what the detectors compute, in standard operators."""

import collections

import numpy as np
import pytest
import torch

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from mmdet.registry import MODELS  # noqa: E402
from mmengine.config import Config  # noqa: E402

from deim_mmdet.deploy import (  # noqa: E402
    EndToEnd,
    ExportOptions,
    InputFormat,
    describe,
    export_onnx,
)
from deim_mmdet.deploy.export.half import HALF_OPERATORS  # noqa: E402
from deim_mmdet.deploy.parity import compare  # noqa: E402
from tests.test_deploy.models import (  # noqa: E402
    ATTO,
    DEYO_N,
    YOLOV8,
    config_of,
    detector_of,
    export,
    images,
    run_pytorch,
)
from tests.test_models.parity import ROOT  # noqa: E402
from tests.test_models.samples import data_samples  # noqa: E402

# detector, config
# fmt: off
FAST = {
    'deim_hgnetv2_n':  'deim/deim_dfine_hgnetv2-n_8xb16-160e_coco',
    'deim_r18vd_120e': 'deim/deim_rtdetrv2_r18vd_8xb2-120e_coco',
    'deyo_n':          DEYO_N,
    YOLOV8:            YOLOV8,
}
# fmt: on
# The published export of N has 1,981 nodes, 783 simplified.
MAX_NODES_OF_N = 600


def assert_same(expected, actual, box=0.1, score=1e-4):
    """Every image's detections agree; order may differ where scores are equal up to rounding."""
    for i in range(len(expected[0])):
        difference = compare([value[i] for value in expected], [value[i] for value in actual])
        assert difference.within(box, score), str(difference)


# ---- the graph computes what PyTorch computes ----------------------------------------------------


@pytest.mark.parametrize('name', FAST)
def test_static(name, tmp_path):
    options = ExportOptions(hw=(256, 192))  # height and width differ
    detector = detector_of(name)
    model, session = export(detector, config_of(FAST[name]), tmp_path / 'm.onnx', options)
    batch = images(options.hw)
    actual = session.run(None, dict(images=batch))
    assert_same(run_pytorch(detector, options, batch), actual)
    assert [value.dtype for value in actual] == [np.float32, np.float32, np.int64]
    assert {node.domain for node in model.graph.node} == {''}
    # nothing is left of the arithmetic with sizes
    assert not {'Shape', 'Range', 'ConstantOfShape'} & {n.op_type for n in model.graph.node}


@pytest.mark.parametrize('name', FAST)
def test_any_batch_and_size(name, tmp_path):
    options = ExportOptions(hw=(256, 256), batch_size=None, dynamic_size=True)
    detector = detector_of(name)
    _, session = export(detector, config_of(FAST[name]), tmp_path / 'm.onnx', options)
    for count, hw in ((1, (256, 256)), (3, (256, 256)), (2, (320, 224))):
        batch = images(hw, count)
        actual = session.run(None, dict(images=batch))
        assert_same(run_pytorch(detector, options, batch), actual)


def test_any_batch_of_one_size(tmp_path):
    options = ExportOptions(hw=(256, 256), batch_size=None)
    detector = detector_of('deim_hgnetv2_n')
    model, session = export(detector, config_of(ATTO), tmp_path / 'm.onnx', options)
    batch = images(options.hw, 3)
    together = session.run(None, dict(images=batch))
    assert_same(run_pytorch(detector, options, batch), together)
    for i in range(3):  # alone or in a batch is the same
        alone = session.run(None, dict(images=batch[i : i + 1]))
        assert_same(alone, [value[i : i + 1] for value in together], box=1e-2, score=1e-5)
    assert len(model.graph.node) <= MAX_NODES_OF_N


def test_boxes_are_those_of_the_head():
    """EndToEnd gives what `predict` gives, box by box."""
    detector = detector_of('deim_hgnetv2_n')
    hw = (256, 192)
    batch = torch.from_numpy(images(hw, 2))
    with torch.no_grad():
        results = detector.predict(batch, data_samples((1, 1), hw))
        boxes, scores, labels = EndToEnd(detector)(batch)
    for i, result in enumerate(results):
        torch.testing.assert_close(boxes[i], result.pred_instances.bboxes)
        torch.testing.assert_close(scores[i], result.pred_instances.scores)
        assert torch.equal(labels[i], result.pred_instances.labels)


def test_export_leaves_the_detector_as_it_is(tmp_path):
    detector = detector_of(ATTO)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    export_onnx(detector, tmp_path / 'm.onnx', ExportOptions(hw=(192, 192)))
    after = detector.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_number_of_nodes(tmp_path):
    """N, static, with post-processing."""
    model = export_onnx(detector_of('deim_hgnetv2_n'), tmp_path / 'm.onnx', ExportOptions())
    assert len(model.graph.node) <= MAX_NODES_OF_N


# ---- inputs --------------------------------------------------------------------------------------

# fmt: off
FORMATS = [
    # pixels on the way in, size of the input
    (InputFormat('uint8', 'nhwc', 'bgr'),                  (192, 192)),
    (InputFormat('float', 'nchw', 'rgb', pad=True),        (200, 180)),
    (InputFormat('uint8', 'nhwc', 'rgb', resize=True),     (150, 333)),
    (InputFormat('normalized', original_size=True),        (192, 192)),
]
# fmt: on


@pytest.mark.parametrize(('image_format', 'image_hw'), FORMATS)
def test_input_formats(image_format, image_hw, tmp_path):
    hw = (192, 192) if image_format.resize else image_hw
    options = ExportOptions(hw=hw, input_format=image_format, batch_size=None)
    detector = detector_of(ATTO)
    _, session = export(detector, config_of(ATTO), tmp_path / 'm.onnx', options)
    batch = images(image_hw, 2)
    if image_format.pixels != 'normalized':
        batch = batch * 255
    if image_format.pixels == 'uint8':
        batch = batch.astype(np.uint8)
    if image_format.layout == 'nhwc':
        batch = batch.transpose(0, 2, 3, 1)
    feeds = [np.ascontiguousarray(batch)]
    if image_format.original_size:
        feeds.append(np.float32([[480, 640], [100, 50]]))
    names = [value.name for value in session.get_inputs()]
    assert names == ['images', 'original_hw'][: len(feeds)]
    expected = run_pytorch(detector, options, *feeds)
    assert_same(expected, session.run(None, dict(zip(names, feeds))))
    if image_format.original_size:
        assert expected[0][1, :, [0, 2]].max() <= 50 and expected[0][1, :, [1, 3]].max() <= 100


def test_formats_agree_with_each_other():
    """The same pixels in another layout, order and scale give the same boxes."""
    detector = detector_of(ATTO)
    pixels = (images((192, 192)) * 255).astype(np.uint8)  # RGB
    expected = run_pytorch(detector, ExportOptions((192, 192)), pixels.astype(np.float32) / 255)
    bgr_rows = np.ascontiguousarray(pixels[:, ::-1].transpose(0, 2, 3, 1))
    options = ExportOptions((192, 192), InputFormat('uint8', 'nhwc', 'bgr'))
    assert_same(expected, run_pytorch(detector, options, bgr_rows), box=1e-2)


# ---- half precision ------------------------------------------------------------------------------


def test_what_is_not_finite_is_far():
    """A graph whose values overflow is no graph that agrees."""
    found = (np.zeros((2, 4)), np.array([0.9, 0.8]), np.zeros(2, int))
    assert compare(found, found).within(0, 0)
    boxes = np.full((2, 4), np.nan)
    assert not compare(found, (boxes, *found[1:])).within(1e9, 1e9)


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    options = ExportOptions(hw=(256, 256), half=True)
    path = tmp_path_factory.mktemp('half') / 'm.onnx'
    return export(detector_of('deim_hgnetv2_n'), config_of(ATTO), path, options)


def test_half_types(half):
    """Weights and products are float16; positions, boxes and final scores are float32."""
    model, _ = half
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = model.graph
    types = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    producers = {name: node for node in graph.node for name in node.output}
    kinds = collections.Counter()
    for node in graph.node:
        kinds[node.op_type] += 1
        if node.op_type in HALF_OPERATORS:
            names = [name for name in (*node.input, *node.output) if name]
            assert {types[name] for name in names} == {double}, node.name
        if node.op_type == 'GridSample':
            assert {types[name] for name in node.input} == {single}
    assert kinds['GridSample'] == 6
    # the last top-k looks at scores in single precision
    top = [node for node in graph.node if node.op_type == 'TopK'][-1]
    assert types[top.input[0]] == single
    # all the way back from the boxes to the products, nothing is computed in half precision
    front, seen = ['boxes'], set()
    while front:
        node = producers.get(front.pop())
        if node is None or id(node) in seen or node.op_type == 'Cast':
            continue
        seen.add(id(node))
        assert node.op_type not in HALF_OPERATORS
        names = [name for name in node.input if name]
        front += [name for name in names if types[name] in (single, double)]
        assert all(types[name] != double for name in names), node.name
    assert len(seen) > 20


def test_half_has_half_the_weights(half, tmp_path):
    path = tmp_path / 'single.onnx'
    export_onnx(detector_of('deim_hgnetv2_n'), path, ExportOptions(hw=(256, 256)))
    assert half[0].ByteSize() < 0.6 * path.stat().st_size


def test_half_finds_the_same(half):
    batch = images((256, 256))
    expected = run_pytorch(detector_of('deim_hgnetv2_n'), ExportOptions((256, 256)), batch)
    actual = half[1].run(None, dict(images=batch))
    assert_same(expected, actual, box=1.0, score=1e-2)


def test_half_refuses_weights_it_cannot_hold(tmp_path):
    import copy

    detector = copy.deepcopy(detector_of(ATTO))
    detector.decoder.cls_branches[-1].weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match='float16 reaches to 65504.*1e.06: export .* float32'):
        export_onnx(detector, tmp_path / 'm.onnx', ExportOptions((192, 192), half=True))
    assert list(tmp_path.iterdir()) == []


# ---- bad input -----------------------------------------------------------------------------------

# fmt: off
BAD = [
    (dict(hw=(200, 192)),                    'multiples of 32, got 200 x 192: take 224 x 192'),
    (dict(hw=(0, 32)),                       'must be positive'),
    (dict(opset=16),                         'opset must be from 17 to 20, got 16'),
    (dict(batch_size=0),                     'batch_size must be at least 1, got 0'),
    (dict(input_format=dict(pixels='u8')),   "pixels must be one of .*, got 'u8'"),
    (dict(input_format=dict(resize=True, original_size=True)), 'exclude each other'),
    (dict(input_format=dict(resize=True), dynamic_size=True),  'any size: without dynamic_size'),
]
# fmt: on


@pytest.mark.parametrize(('settings', 'message'), BAD)
def test_bad_options(settings, message):
    with pytest.raises(ValueError, match=message):
        if 'input_format' in settings:
            settings = dict(settings, input_format=InputFormat(**settings['input_format']))
        ExportOptions(**settings)


def test_too_few_cells():
    """A trace of them would select fewer queries in every size."""
    detector, options = detector_of(ATTO), ExportOptions((64, 96), dynamic_size=True)
    assert describe(detector, config_of(ATTO), options).strides == (8, 16)
    with pytest.raises(ValueError, match='64 x 64 have 80 cells, and .* 100 queries'):
        describe(detector, config_of(ATTO), ExportOptions((64, 64), dynamic_size=True))
    describe(detector, config_of(ATTO), ExportOptions((64, 64)))  # of one size: fewer queries


def test_other_detectors_are_refused(tmp_path):
    """DDQ suppresses boxes that overlap among its queries, which its stages do not show."""
    config = Config.fromfile(ROOT / 'configs/any_detr/ddq-detr-4scale_r50_8xb2-12e_coco.py')
    config.model.backbone.init_cfg = None
    detector = MODELS.build(config.model)
    with pytest.raises(TypeError, match='DDQDETR cannot be exported directly'):
        export_onnx(detector, tmp_path / 'm.onnx')
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path):
    path = tmp_path / 'm.onnx'
    path.write_text('mine')
    with pytest.raises(FileExistsError, match='--overwrite'):
        export_onnx(detector_of(ATTO), path, ExportOptions((192, 192)))
    assert path.read_text() == 'mine'


def test_a_failed_check_leaves_nothing(tmp_path):
    def check(path):
        assert path.exists()
        raise ValueError('differs')

    with pytest.raises(ValueError, match='differs'):
        export_onnx(detector_of(ATTO), tmp_path / 'm.onnx', ExportOptions((192, 192)), check=check)
    assert list(tmp_path.iterdir()) == []
