# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Which layers get eight-bit integers, by which scales, and what that leaves of the result."""

import collections

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')

from onnx import helper, numpy_helper  # noqa: E402

from deim_mmdet.deploy import Detections, Detector, ExportOptions, InputFormat  # noqa: E402
from deim_mmdet.deploy.agreement import compare_files, overlaps  # noqa: E402
from deim_mmdet.deploy.export.calibration import (  # noqa: E402
    BINS,
    METHODS,
    Magnitudes,
    by_entropy,
    by_maximum,
    by_percentile,
)
from deim_mmdet.deploy.export.graph import Graph  # noqa: E402
from deim_mmdet.deploy.export.quantize import (  # noqa: E402
    LAYERS,
    float_layers,
    quantize,
    round_in_single,
    sensitivity,
    weighted_layers,
)
from tests.test_deploy.models import ATTO, config_of, detector_of, export  # noqa: E402

HW = (96, 96)


def toy(path, dtype=np.float32, opset=19, weights=None):
    """A residual block between a first and a last convolution, and a product.

    image -> first -> Relu -> inner -> Add -> Relu -> last -> TopK
                        `---------------^       `-> mean -> product -> deep -> (ReduceSum) out
    """
    rng = np.random.default_rng(0)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants = dict(
        wf=rng.normal(size=(8, 3, 3, 3)),
        wi=rng.normal(size=(8, 8, 3, 3)) * np.logspace(-2, 1, 8)[:, None, None, None],
        bi=rng.normal(size=8),
        wl=rng.normal(size=(4, 8, 1, 1)),
        wp=rng.normal(size=(8, 6)) * np.logspace(-1, 1, 6),
        wd=rng.normal(size=(6, 5)),
    )
    constants = {k: v.astype(dtype) for k, v in {**constants, **(weights or {})}.items()}
    constants.update(k=np.array([2]), flat=np.array([1, -1]), axes=np.array([2, 3]))
    pads = dict(pads=[1, 1, 1, 1])
    nodes = [
        ('Conv', ['image', 'wf'], ['a'], pads),
        ('Relu', ['a'], ['b'], {}),
        ('Conv', ['b', 'wi', 'bi'], ['c'], pads),
        ('Add', ['c', 'b'], ['d'], {}),
        ('Relu', ['d'], ['e'], {}),
        ('Conv', ['e', 'wl'], ['f'], {}),
        ('Reshape', ['f', 'flat'], ['g'], {}),
        ('TopK', ['g', 'k'], ['scores', 'indices'], {}),
        ('ReduceMean', ['e', 'axes'], ['h'], dict(keepdims=0)),
        ('MatMul', ['h', 'wp'], ['i'], {}),
        ('Relu', ['i'], ['j'], {}),
        ('MatMul', ['j', 'wd'], ['out'], {}),
    ]
    outputs = [('scores', element, (1, 2)), ('out', element, (1, 5))]
    if opset < 18:
        nodes[8] = ('ReduceMean', ['e'], ['h'], dict(keepdims=0, axes=[2, 3]))
    graph = helper.make_graph(
        [helper.make_node(op, i, o, name=f'/{o[0]}', **a) for op, i, o, a in nodes],
        'toy',
        [helper.make_tensor_value_info('image', element, (1, 3, 8, 8))],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def toy_feeds(count=4, dtype=np.float32):
    rng = np.random.default_rng(1)
    return [dict(image=rng.random((1, 3, 8, 8)).astype(dtype)) for _ in range(count)]


def run(path, feeds):
    session = ort.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return [session.run(None, feed) for feed in feeds]


def assert_law(model, scale_type, operators):
    """Zero points are 0, scales positive, weights per output channel, nothing else is touched."""
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {''}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = collections.defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    layers = 0
    for node in model.graph.node:
        if node.op_type == 'QuantizeLinear':
            assert {reader.op_type for reader in readers[node.output[0]]} == {'DequantizeLinear'}
        elif node.op_type == 'DequantizeLinear':
            small, scale, zero = node.input
            assert constants[zero].dtype == np.int8 and not constants[zero].any()
            assert constants[scale].dtype == scale_type and (constants[scale] > 0).all()
            for reader in readers[node.output[0]]:
                assert reader.op_type in (*operators, 'Add'), reader.name
            if small in constants:  # weights
                (axis,) = (a.i for a in node.attribute)
                assert {LAYERS[r.op_type] for r in readers[node.output[0]]} == {axis}
                assert constants[small].dtype == np.int8 and constants[small].min() >= -127
                assert constants[scale].shape == (constants[small].shape[axis],)
            else:
                assert constants[scale].shape == ()
                assert producers[small].input[1:] == node.input[1:]
        elif node.op_type in LAYERS:
            made = [producers.get(name) for name in node.input[:2]]
            quantized = [m is not None and m.op_type == 'DequantizeLinear' for m in made]
            assert all(quantized) or not any(quantized), node.name
            layers += all(quantized)
            # biases stay
            assert all(constants[name].dtype == scale_type for name in node.input[2:])
    return layers


# ---- graphs by hand ------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [np.float32, np.float16])
@pytest.mark.parametrize('operators', [('Conv',), ('Conv', 'MatMul')])
def test_law(tmp_path, dtype, operators):
    path = toy(tmp_path / 'toy.onnx', dtype)
    out = tmp_path / 'int8.onnx'
    feeds = toy_feeds(dtype=dtype)
    names = quantize(path, out, iter(feeds), operators)
    # first and last layers stay, of each branch
    assert names == ['/c', '/i'][: len(operators)]
    model = onnx.load(out)
    assert assert_law(model, dtype, operators) == len(names)
    # the other summand of a residual connection is read in int8, from the pair that is there
    add = next(node for node in model.graph.node if node.op_type == 'Add')
    conv = next(node for node in model.graph.node if node.name == '/c')
    assert add.input[1] == conv.input[0]
    # it computes about the same
    for before, after in zip(run(path, feeds), run(out, feeds)):
        for old, new in zip(before, after):
            assert old.dtype == new.dtype
            assert np.abs(old - new).max() < 0.05 * np.abs(old).max()
            assert np.abs(old - new).max() > 0


def test_float16_is_rounded(tmp_path):
    """Not cut off, as ONNX Runtime's CPU does it: quantised in float32, the rest stays float16."""
    path = toy(tmp_path / 'toy.onnx', np.float16)
    feeds = toy_feeds(8, np.float16)
    quantize(path, tmp_path / 'int8.onnx', feeds)
    exact = round_in_single(onnx.load(tmp_path / 'int8.onnx'))
    onnx.save(exact, tmp_path / 'exact.onnx')
    kinds = collections.Counter(node.op_type for node in exact.graph.node)
    assert kinds['Cast'] == kinds['QuantizeLinear'] == 1
    before = run(path, feeds)
    errors = [
        np.mean([np.abs(a - b).mean() for x, y in zip(before, run(p, feeds)) for a, b in zip(x, y)])
        for p in (tmp_path / 'int8.onnx', tmp_path / 'exact.onnx')
    ]
    assert errors[1] <= errors[0]
    # the Q/DQ pair of the exact graph, by hand
    quantizer = next(node for node in exact.graph.node if node.op_type == 'QuantizeLinear')
    scale = next(t for t in exact.graph.initializer if t.name == quantizer.input[1])
    exact.graph.output.add(name=quantizer.output[0])
    exact.graph.output.add(name='b')
    onnx.save(exact, tmp_path / 'open.onnx')
    small, value = run(tmp_path / 'open.onnx', feeds[:1])[0][-2:]
    steps = value.astype(np.float32) / numpy_helper.to_array(scale)
    assert np.abs(small - steps.clip(-128, 127)).max() < 0.501


def test_ends_on_demand(tmp_path):
    path = toy(tmp_path / 'toy.onnx')
    out = tmp_path / 'int8.onnx'
    names = quantize(path, out, toy_feeds(), ('Conv', 'MatMul'), ends=True)
    assert names == ['/a', '/c', '/f', '/i', '/out']
    assert assert_law(onnx.load(out), np.float32, ('Conv', 'MatMul')) == 5
    names = quantize(path, tmp_path / 'some.onnx', toy_feeds(), ends=True, skip=['/a', '/[fg]'])
    assert names == ['/c']


def test_scales(tmp_path):
    """By hand: a weight of 1.27 has the step 0.01; inputs up to 2.54 the step 0.02."""
    weights = np.zeros((8, 8, 3, 3))
    weights[0, 0, 1, 1], weights[0, 1, 1, 1], weights[1, 0, 1, 1] = 1.27, -0.5, 12.7
    path = toy(tmp_path / 'toy.onnx', weights=dict(wi=weights, wf=np.ones((8, 3, 3, 3))))
    image = np.zeros((1, 3, 8, 8), np.float32)
    image[0, 0, 4, 4] = 2.54
    quantize(path, tmp_path / 'int8.onnx', [dict(image=image)])
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / 'int8.onnx').graph.initializer
    }
    (small,) = (v for k, v in constants.items() if k.startswith('wi.int8'))
    (steps,) = (v for k, v in constants.items() if k.startswith('wi.scale'))
    (step,) = (v for k, v in constants.items() if k.startswith('b.scale'))
    np.testing.assert_allclose(steps[:2], [0.01, 0.1], rtol=1e-6)
    assert (small[0, 0, 1, 1], small[0, 1, 1, 1], small[1, 0, 1, 1]) == (127, -50, 127)
    assert (steps[2:] == 1).all()  # channels without weights
    np.testing.assert_allclose(step, 0.02, rtol=1e-6)


# fmt: off
BAD = [
    # arguments of quantize, message
    (dict(feeds=[]),                        'no images to calibrate on'),
    (dict(operators=('Conv', 'Gemm')),      'operators are of Conv, MatMul, got Gemm'),
    (dict(method='mean'),                   "method must be one of .*, got 'mean'"),
    (dict(skip=['/neck/*']),                'no layer is named /neck/.; names are as /a'),
    (dict(skip=['*']),                      'nothing is left to quantise'),
    (dict(feeds=[dict(image=np.full((1, 3, 8, 8), np.inf, np.float32))]), 'not finite'),
]
# fmt: on


@pytest.mark.parametrize(('settings', 'message'), BAD)
def test_bad_arguments(tmp_path, settings, message):
    path = toy(tmp_path / 'toy.onnx')
    with pytest.raises(ValueError, match=message):
        quantize(path, tmp_path / 'out.onnx', **{'feeds': toy_feeds(), **settings})
    assert list(tmp_path.iterdir()) == [path]


def test_bad_files(tmp_path):
    path = toy(tmp_path / 'toy.onnx')
    out = tmp_path / 'out.onnx'
    quantize(path, out, toy_feeds())
    with pytest.raises(ValueError, match='out.onnx has eight-bit layers already: start from'):
        quantize(out, tmp_path / 'twice.onnx', toy_feeds())
    with pytest.raises(FileExistsError, match='out.onnx exists'):
        quantize(path, out, toy_feeds())
    with pytest.raises(ValueError, match='is the input itself'):
        quantize(path, path, toy_feeds(), overwrite=True)
    old = toy(tmp_path / 'old.onnx', np.float16, opset=17)
    with pytest.raises(ValueError, match='float16 scales need opset 19, the graph has 17'):
        quantize(old, tmp_path / 'half.onnx', toy_feeds(dtype=np.float16))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['old.onnx', 'out.onnx', 'toy.onnx']


def test_failed_check_leaves_nothing(tmp_path):
    path = toy(tmp_path / 'toy.onnx')

    def check(new):
        assert new.exists()
        raise ValueError('too bad')

    with pytest.raises(ValueError, match='too bad'):
        quantize(path, tmp_path / 'out.onnx', toy_feeds(), check=check)
    assert list(tmp_path.iterdir()) == [path]


# ---- what was seen -------------------------------------------------------------------------------


def test_magnitudes_in_any_batches():
    """Batches of growing range give the counts of all values at once; zeros do not count."""
    values = np.float32([0.5, -1, 0, 3, 7.9, -8, 100])
    one, many = Magnitudes(), Magnitudes()
    one.add(values[values != 100])
    one.add(values[values == 100])
    for value in values:
        many.add(np.float32([value]))
    assert one.largest == many.largest == 100
    assert one.counts.sum() == many.counts.sum() == 6
    assert one.counts.shape == (BINS,) and one.top >= 100
    # a map that is zero on all images
    assert [method(Magnitudes()) for method in METHODS.values()] == [0, 0, 0]


def test_methods():
    """Ten thousand values below 1, evenly, and a few of 50."""
    seen = Magnitudes()
    seen.add(np.linspace(0.0001, 1, 100_000, dtype=np.float32))
    seen.add(np.float32([50, -50]))
    assert by_maximum(seen) == 50
    assert by_percentile(seen) == pytest.approx(1, abs=2 * seen.top / BINS)
    assert by_entropy(seen) < 50
    assert all(method(seen) > 0 for method in METHODS.values())


# ---- a detector ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def atto(tmp_path_factory):
    path = tmp_path_factory.mktemp('atto') / 'atto.onnx'
    options = ExportOptions(HW, InputFormat('uint8', 'nhwc', 'bgr'))
    export(detector_of(ATTO), config_of(ATTO), path, options)
    return path


@pytest.fixture(scope='module')
def pictures():
    rng = np.random.default_rng(0)
    return [
        np.kron(rng.integers(0, 256, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for _ in range(3)
    ]


def test_layers_of_a_detector(atto):
    """Float stays what reads the image or a box, and what gives boxes, scores or places."""
    graph = Graph(onnx.load(atto))
    graph.infer()
    layers = weighted_layers(graph)
    kept = float_layers(graph, layers)
    names = {node.name for node in layers if id(node) in kept}
    assert names == {
        '/backbone/stem/stem1/conv/Conv',
        '/query_selection/cls_branch/MatMul',
        '/query_selection/reg_branch/layers.2/MatMul',
        '/decoder/initial_reg_branch/layers.2/MatMul',
        '/decoder/cls_branches.2/MatMul',
        '/decoder/quality_branches.2/mlp/layers.0/MatMul',
        '/decoder/quality_branches.2/mlp/layers.1/MatMul',
        *(f'/decoder/reg_branches.{i}/layers.2/MatMul' for i in range(3)),
        *(f'/decoder/layers.{i}/cross_attn/sampling_offsets/MatMul' for i in range(3)),
        *(f'/decoder/query_pos_mlp/layers.0{end}/MatMul' for end in ('', '_1', '_2')),
    }


def test_a_detector_on_one_image(atto, pictures, tmp_path):
    before = Detector(atto, 0.0)
    out = tmp_path / 'int8.onnx'
    names = quantize(atto, out, [before.feeds(pictures[:1])[0]])
    assert len(names) == 53 and all(name.endswith('/Conv') for name in names)
    assert assert_law(onnx.load(out), np.float32, ('Conv',)) == 53
    assert out.stat().st_size < 0.75 * atto.stat().st_size
    after = Detector(out, 0.0)
    assert after.metadata.precision == 'int8'
    assert after.metadata.classes == before.metadata.classes
    # of images that it has not seen, as well
    for image in pictures:
        change = np.abs(after(image).scores[:10] - before(image).scores[:10])
        assert 0 < change.mean() < 0.06


def test_sensitivity(atto, pictures):
    before = atto.read_bytes()
    costs = sensitivity(atto, pictures[:1], skip=['/backbone/*', '/neck/[!i]*'])
    assert sorted(name for name, _ in costs) == [
        '/neck/input_projs.0/conv/Conv',
        '/neck/input_projs.1/conv/Conv',
    ]
    assert atto.read_bytes() == before
    losses = [agreement.loss for _, agreement in costs]
    assert losses == sorted(losses, reverse=True) and losses[0] > 0


def test_agreement():
    """By hand: of three detections one moves, one is gone; a new one comes."""

    class Fake:
        def __init__(self, *detections):
            boxes, scores, labels = zip(*detections)
            self.found = Detections(np.float32(boxes), np.float32(scores), np.array(labels))
            self.metadata = type('', (), dict(score_threshold=0.4))

        def __call__(self, image):
            return self.found

    box, moved, far = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)
    first = Fake((box, 0.9, 0), (box, 0.8, 1), (far, 0.5, 0), (far, 0.3, 2))
    second = Fake((moved, 0.8, 0), (far, 0.3, 0), (far, 0.9, 3))
    agreement = compare_files(first, second, [None])
    # found: the first (IoU 0.8, 0.1 of score) and the third (IoU 1, 0.2 of score, above half 0.4)
    assert agreement.count == 3 and agreement.found == pytest.approx(2 / 3)
    assert agreement.iou == pytest.approx(0.9) and agreement.score == pytest.approx(0.15)
    assert agreement.extra == 1
    assert agreement.loss == pytest.approx(2 / 3 + 2 / 3 * 0.25)
    assert compare_files(first, first, [None]).loss == 0
    assert overlaps(np.zeros(4), np.zeros((1, 4))) == 0
