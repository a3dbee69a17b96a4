# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX builds engines for GPUs that are not there: no GPU is needed, and none runs them."""

import json
import logging
import re
from functools import cache

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('tensorrt_rtx_bindings')

from deim_mmdet.deploy import (  # noqa: E402
    ExportOptions,
    InputFormat,
    describe,
    export_onnx,
    tensorrt_api,
)
from deim_mmdet.deploy.tensorrt_build import (  # noqa: E402
    OnnxFile,
    build_engine,
    input_shapes,
    read_graph,
)
from deim_mmdet.deploy.tensorrt_cache import default_cache  # noqa: E402
from deim_mmdet.deploy.tensorrt_file import EngineInfo, read_engine  # noqa: E402
from tests.test_deploy.models import ATTO, config_of, detector_of, random_detector  # noqa: E402

HW = (192, 192)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('tensorrt')


@pytest.fixture(scope='module')
def atto(folder):
    """Files of the smallest detector by options, each exported once."""

    @cache
    def write(**options):
        path = folder / f'{len(list(folder.iterdir()))}.onnx'
        options = ExportOptions(**{'hw': HW, **options})
        metadata = describe(detector_of(ATTO), config_of(ATTO), options)
        export_onnx(detector_of(ATTO), path, options, metadata)
        return path

    return write


@pytest.fixture
def messages():
    """What TensorRT says; pytest's own fixture would print all of it if a test fails."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = tensorrt_api.LOGGER
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def build_model(name, folder, half, capability, **options):
    """Engine of a config with random weights at 640 x 640."""
    config = config_of(name)
    detector = random_detector(config)
    # TensorRT-RTX has no non-maximum suppression
    settings = ExportOptions(half=half, candidates=name.startswith('yolov8'))
    path = folder / 'model.onnx'
    export_onnx(detector, path, settings, describe(detector, config, settings), overwrite=True)
    return build_engine(path, folder / 'model.engine', [capability], overwrite=True, **options)


# ---- every size ----------------------------------------------------------------------------------

# fmt: off
EVERYDAY = [
    # config                                       float16  compute capability
    ('dfine/dfine_hgnetv2-s_8xb4-132e_coco',       True,    '7.5'),
    ('dfine/dfine_hgnetv2-s_8xb4-132e_coco',       False,   '8.6'),
    ('rtdetrv2/rtdetrv2_r18vd_8xb2-120e_coco',     True,    '7.5'),
    ('rtdetrv2/rtdetrv2_r18vd_8xb2-120e_coco',     False,   '8.6'),
    ('deim/deim_dfine_hgnetv2-n_8xb16-160e_coco',  False,   '8.6'),  # in float16: below
]
# One config of each architecture: DEIM trains those of D-FINE and RT-DETRv2.
ZOO = [
    'dfine/dfine_hgnetv2-n_8xb16-160e_coco',
    'dfine/dfine_hgnetv2-s_8xb4-132e_coco',
    'dfine/dfine_hgnetv2-m_8xb4-132e_coco',
    'dfine/dfine_hgnetv2-l_8xb4-80e_coco',
    'dfine/dfine_hgnetv2-x_8xb4-80e_coco',
    'rtdetrv2/rtdetrv2_r18vd_8xb2-120e_coco',
    'rtdetrv2/rtdetrv2_r34vd_8xb2-120e_coco',
    'rtdetrv2/rtdetrv2_r50vd-m_8xb2-84e_coco',
    'rtdetrv2/rtdetrv2_r50vd_8xb2-72e_coco',
    'rtdetrv2/rtdetrv2_r101vd_8xb2-72e_coco',
    'rtdetrv2/rtdetrv2_r18vd-dsp_8xb2-36e_coco',
    'rtdetrv2/rtdetrv2_r34vd-dsp_8xb2-12e_coco',
    'rtdetrv2/rtdetrv2_r50vd-m-dsp_8xb2-36e_coco',
    'rtdetrv2/rtdetrv2_r50vd-dsp_8xb2-12e_coco',
    'rtdetr/rtdetr_r18vd_8xb2-72e_coco',
    'rtdetr/rtdetr_r34vd_8xb2-72e_coco',
    'rtdetr/rtdetr_r50vd-m_8xb2-72e_coco',
    'rtdetr/rtdetr_r50vd_8xb2-72e_coco',
    'rtdetr/rtdetr_r101vd_8xb2-72e_coco',
    'deyo/deyo-tiny_yolov8-n_8xb2-96e_coco',
    'deyo/deyo_yolov8-n_8xb2-96e_coco',
    'deyo/deyo_yolov8-s_8xb2-96e_coco',
    'deyo/deyo_yolov8-m_8xb2-96e_coco',
    'deyo/deyo_yolov8-l_8xb2-96e_coco',
    'deyo/deyo_yolov8-x_8xb2-96e_coco',
    'yolov8/yolov8_n_8xb16-500e_coco',
    'yolov8/yolov8_s_8xb16-500e_coco',
    'yolov8/yolov8_m_8xb16-500e_coco',
    'yolov8/yolov8_l_8xb16-500e_coco',
    'yolov8/yolov8_x_8xb16-500e_coco',
    'dn_detr/dn-detr_r50_8xb2-50e_coco',
    'dn_detr/dn-detr_r101_8xb2-50e_coco',
    'dn_detr/dn-detr_r50-dc5_8xb2-50e_coco',
    'dn_detr/dn-deformable-detr_r50_8xb2-50e_coco',
]
# fmt: on


@pytest.mark.parametrize(('name', 'half', 'capability'), EVERYDAY)
def test_engine(name, half, capability, tmp_path):
    check_engine(build_model(name, tmp_path, half, capability), half, capability, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(('half', 'capability'), [(True, '7.5'), (False, '8.6')])
@pytest.mark.parametrize('name', ZOO)
def test_engine_of_every_size(name, half, capability, tmp_path):
    info = build_model(name, tmp_path, half, capability)
    check_engine(info, half, capability, tmp_path)
    print(f'{name}: {info.metadata.precision}, {capability}: {info.size / 1e6:.0f} MB')


def check_engine(info, half, capability, folder):
    assert info.metadata.precision == ('float16' if half else 'float32')
    assert info.compute_capabilities == (capability,)
    found, plan = read_engine(folder / 'model.engine')
    assert found == info and len(plan) == info.size > 1_000_000
    assert sorted(path.name for path in folder.iterdir()) == [
        'model.engine',
        'model.engine.json',
        'model.onnx',
    ]


def test_engine_has_the_types_of_the_graph(tmp_path, messages):
    """Bilinear sampling is in float32, every convolution and matrix product in float16."""
    name = 'deim/deim_dfine_hgnetv2-n_8xb16-160e_coco'
    info = build_model(name, tmp_path, True, '7.5', detailed=True)
    check_engine(info, True, '7.5', tmp_path)
    # layers of the engine: types of values, and which nodes of the graph they are
    layers = re.findall(
        r'^Name: (.*), LayerType: (\w+), Inputs: (.*), Constants: .*?, Outputs: (\[.*?\]), '
        r'TacticName: .*, Metadata: (.*)$',
        '\n'.join(messages),
        re.MULTILINE,
    )
    sampled = products = 0
    for name, kind, inputs, outputs, nodes in layers:
        types = [set(re.findall(r'Datatype: (\w+)', values)) for values in (inputs, outputs)]
        if 'GridSample' in nodes:
            sampled += 1
            assert types == [{'Float'}, {'Float'}], name
        is_product = kind in ('correlation', 'gemm') or re.search(r'(MatMul|Conv)\]', nodes)
        if is_product and '.cast' not in nodes:  # which may be one kernel with its product
            products += 1
            assert 'Half' in types[0], name
    assert sampled == 6 and products > 100


# ---- what is in the files ------------------------------------------------------------------------


def test_description(atto, folder, capfd):
    path = atto(half=True)
    capfd.readouterr()
    info = build_engine(path, folder / 'a.engine', ['7.5', '8.6', '7.5'])
    assert capfd.readouterr() == ('', '')  # messages go to the logger
    assert info.compute_capabilities == ('7.5', '8.6') and info.gpu is None and not info.tf32
    assert (info.flavour, info.graph) == ('tensorrt_rtx', read_graph(path).hash)
    assert info.shapes == {'images': ((1, 3, *HW),) * 3}
    values = json.loads((folder / 'a.engine.json').read_text())
    assert values['version'] == tensorrt_api.load('tensorrt_rtx').version
    assert values['metadata']['precision'] == 'float16' and values['size'] == info.size
    assert EngineInfo.from_json(info.to_json(), 'x') == info
    assert (folder / 'a.engine').read_bytes()[:4] == b'vtrt'  # the plan and nothing else


def test_dynamic_shapes(atto, folder):
    path = atto(half=True, batch_size=None, dynamic_size=True)
    shapes = dict(batch=(1, 2, 4), height=(192, 192, 256))
    info = build_engine(path, folder / 'dynamic.engine', ['7.5'], shapes)
    assert info.shapes == {'images': ((1, 3, 192, 96), (2, 3, 192, 192), (4, 3, 256, 288))}


def test_bytes_that_are_resized_inside(atto, folder):
    path = atto(half=True, input_format=InputFormat('uint8', 'nhwc', 'bgr', resize=True))
    info = build_engine(path, folder / 'bytes.engine', ['8.6'])
    assert info.shapes == {'images': ((1, 32, 32, 3), (1, 720, 1280, 3), (1, 2160, 3840, 3))}


def test_ranges():
    def shapes_of(meta, inputs, **shapes):
        graph = OnnxFile(None, b'', meta, inputs, [])
        return input_shapes(graph, shapes)

    meta = describe(detector_of(ATTO), config_of(ATTO), ExportOptions((192, 320)))
    inputs = {'images': ('batch', 3, 'height', 'width'), 'original_hw': ('batch', 2)}
    assert shapes_of(meta, inputs) == {
        'images': ((1, 3, 96, 160), (1, 3, 192, 320), (8, 3, 288, 480)),
        'original_hw': ((1, 2), (1, 2), (8, 2)),
    }
    assert shapes_of(meta, inputs, batch=[2, 2, 2])['original_hw'] == ((2, 2),) * 3
    for shapes, message in [
        (dict(depth=(1, 1, 1)), "no dimension 'depth' .*; it has batch, height, width"),
        (dict(batch=(2, 1, 4)), r'largest batch must be rising and positive, got \(2, 1, 4\)'),
        (dict(batch=(0, 1, 4)), 'must be rising and positive'),
        (dict(batch=(1, 4)), 'must be rising and positive'),
        (dict(height=(100, 192, 192)), 'height must be multiples of 32'),
    ]:
        with pytest.raises(ValueError, match=message):
            shapes_of(meta, inputs, **shapes)


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_cache() == tmp_path / 'deim_mmdet' / 'engines'


# What is used of TensorRT's modules. Without a GPU nothing else tests most of the second part.
USED = """
Builder.create_network Builder.create_builder_config Builder.create_optimization_profile
Builder.build_serialized_network IBuilderConfig.clear_flag IBuilderConfig.profiling_verbosity
IBuilderConfig.add_optimization_profile IBuilderConfig.create_timing_cache
IBuilderConfig.set_timing_cache IOptimizationProfile.set_shape ITimingCache.serialize
OnnxParser.parse OnnxParser.num_errors OnnxParser.get_error ParserError.node_name
ParserError.node_operator ParserError.desc BuilderFlag.TF32 ProfilingVerbosity.DETAILED
NetworkDefinitionCreationFlag.STRONGLY_TYPED ILogger.log
Runtime.deserialize_cuda_engine ICudaEngine.num_io_tensors ICudaEngine.get_tensor_name
ICudaEngine.get_tensor_dtype ICudaEngine.get_tensor_mode ICudaEngine.create_execution_context
IExecutionContext.set_input_shape IExecutionContext.get_tensor_shape
IExecutionContext.set_tensor_address IExecutionContext.execute_async_v3 TensorIOMode.INPUT
TensorIOMode.OUTPUT
"""
USED_OF_RTX = """
IBuilderConfig.num_compute_capabilities IBuilderConfig.set_compute_capability
ComputeCapability.CURRENT ComputeCapability.SM75
ICudaEngine.create_runtime_config IRuntimeConfig.cuda_graph_strategy
IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy IRuntimeConfig.create_runtime_cache
IRuntimeConfig.set_runtime_cache IRuntimeCache.serialize IRuntimeCache.deserialize
CudaGraphStrategy.WHOLE_GRAPH_CAPTURE DynamicShapesKernelSpecializationStrategy.EAGER
Runtime.get_engine_validity Runtime.engine_header_size EngineValidity.INVALID
EngineInvalidityDiagnostics.VERSION_MISMATCH
"""


def test_names_of_the_module():
    module = tensorrt_api.load('tensorrt_rtx').module
    for name in f'{USED} {USED_OF_RTX}'.split():
        kind, _, attribute = name.partition('.')
        assert hasattr(getattr(module, kind), attribute), name
    assert module.nptype(module.DataType.UINT8) is np.uint8
    assert module.nptype(module.DataType.INT64) is np.int64


# ---- bad input -----------------------------------------------------------------------------------


def test_float32_on_turing_is_refused(atto, folder):
    message = 'no float32 matrices on .* 7.5 .*MatMul and .* more.*: export with --fp16, or build'
    with pytest.raises(ValueError, match=message):
        build_engine(atto(), folder / 'no.engine', ['8.6', '7.5'])


@pytest.mark.parametrize(
    ('capabilities', 'message'),
    [
        ([], 'builds for the compute capabilities 7.5, 8.0, .*, got none'),
        (['9.9'], 'builds for the compute capabilities 7.5, 8.0, .*, got 9.9'),
        (['sm75'], "two numbers as 7.5 .*got 'sm75'"),
        (['7.5', '8'], "two numbers as 7.5 .*got '8'"),
    ],
)
def test_bad_capabilities(atto, folder, capabilities, message):
    with pytest.raises(ValueError, match=message):
        build_engine(atto(half=True), folder / 'no.engine', capabilities)


def test_bad_options(atto, folder):
    path = atto(half=True)
    message = "no dimension 'batch' .* every size is fixed. Export with --dynamic-batch"
    with pytest.raises(ValueError, match=message):
        build_engine(path, folder / 'no.engine', ['7.5'], dict(batch=(1, 2, 4)))
    with pytest.raises(ValueError, match='measures nothing while it builds: leave timing_cache'):
        build_engine(path, folder / 'no.engine', ['7.5'], timing_cache=folder / 'timing')
    with pytest.raises(ValueError, match="flavour must be one of .*, got 'rt'"):
        build_engine(path, folder / 'no.engine', ['7.5'], flavour='rt')


def test_bad_graphs(tmp_path):
    out = tmp_path / 'no.engine'
    with pytest.raises(FileNotFoundError, match='missing.onnx: no such file'):
        build_engine(tmp_path / 'missing.onnx', out, ['7.5'])
    path = tmp_path / 'text.onnx'
    path.write_text('no graph')
    with pytest.raises(ValueError, match='text.onnx is no ONNX file'):
        build_engine(path, out, ['7.5'])
    onnx.save(onnx.ModelProto(), path)
    with pytest.raises(ValueError, match='text.onnx was not written by tools/export.py'):
        build_engine(path, out, ['7.5'])
    assert [found.name for found in tmp_path.iterdir()] == ['text.onnx']


def test_unknown_operators_are_named(atto, tmp_path):
    model = onnx.load(atto(half=True))
    model.graph.node[0].op_type, model.graph.node[0].name = 'Inverse', 'first'
    onnx.save(model, tmp_path / 'm.onnx')
    with pytest.raises(ValueError, match=r'TensorRT-RTX .* cannot read .*node first \(Inverse\): '):
        build_engine(tmp_path / 'm.onnx', tmp_path / 'no.engine', ['7.5'])
    assert [found.name for found in tmp_path.iterdir()] == ['m.onnx']


def test_files_are_not_lost(atto, tmp_path):
    path = atto(half=True)
    (tmp_path / 'a.engine.json').write_text('mine')
    with pytest.raises(FileExistsError, match='a.engine.json exists: .*--overwrite'):
        build_engine(path, tmp_path / 'a.engine', ['7.5'])
    with pytest.raises(ValueError, match='is the input itself'):
        build_engine(path, path, ['7.5'], overwrite=True)
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file'):  # the folder cannot be made
        build_engine(path, tmp_path / 'file' / 'a.engine', ['7.5'])
    assert (tmp_path / 'a.engine.json').read_text() == 'mine'
