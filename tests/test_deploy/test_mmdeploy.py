# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""mmdeploy, as pip installs it, converts the detectors, and runs and describes what it makes."""

import copy
import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import cv2
import numpy as np
import pytest
import torch

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('mmdeploy')

from mmdeploy.apis import build_task_processor, inference_model, torch2onnx  # noqa: E402
from mmdeploy.apis.core import PIPELINE_MANAGER  # noqa: E402
from mmdeploy.apis.utils import to_backend  # noqa: E402
from mmdeploy.backend.base import get_backend_manager  # noqa: E402
from mmdeploy.backend.sdk.export_info import export2SDK  # noqa: E402
from mmdeploy.codebase.mmdet.deploy.object_detection import ObjectDetection  # noqa: E402
from mmdeploy.utils import get_backend  # noqa: E402
from mmdet.apis import inference_detector, init_detector  # noqa: E402
from mmengine.config import Config  # noqa: E402

from deim_mmdet.deploy import ExportOptions, export_onnx, tensorrt_api  # noqa: E402
from deim_mmdet.deploy.cuda import Gpu  # noqa: E402
from deim_mmdet.deploy.evaluation import evaluate  # noqa: E402
from deim_mmdet.deploy.mmdeploy_support.backends import (  # noqa: E402
    CurrentTensorRTWrapper,
    EngineTarget,
    fixed_batch,
    library_for,
)
from deim_mmdet.deploy.mmdeploy_support.deploy_config import (  # noqa: E402
    MODULES,
    check,
    wants_half,
)
from deim_mmdet.deploy.mmdeploy_support.task import DetectionTask  # noqa: E402
from deim_mmdet.deploy.parity import compare  # noqa: E402
from deim_mmdet.deploy.runners.openvino_runner import shared_core  # noqa: E402
from tests.fixtures import fill  # noqa: E402
from tests.test_deploy.models import (  # noqa: E402
    ATTO,
    YOLOV8,
    config_of,
    letterbox_config,
    random_detector,
)
from tests.test_models.parity import ROOT  # noqa: E402

FOLDER = ROOT / 'configs/deploy'
DEPLOY_CONFIGS = sorted(path.stem for path in FOLDER.glob('*.py'))
CLASSES = tuple('0123456789')


def deploy_config(name: str, **settings) -> Config:
    config = Config.fromfile(FOLDER / f'{name}.py')
    config.merge_from_dict({key.replace('__', '.'): value for key, value in settings.items()})
    return config


def pipeline_of(config: Config) -> list:
    return config.test_dataloader.dataset.pipeline


def save_checkpoint(config: Config, path: Path, hw=(192, 192)) -> str:
    """Random weights that find something in images of ``hw``."""
    meta = dict(dataset_meta=dict(classes=CLASSES))
    # building a detector of mmdet changes its config
    detector = random_detector(copy.deepcopy(config), hw)
    torch.save(dict(state_dict=detector.state_dict(), meta=meta), path)
    return str(path)


def pictures(folder: Path, *sizes) -> list:
    """Image files of (height, width), in which things differ."""
    paths = []
    for i, (height, width) in enumerate(sizes):
        pixels = fill.image(height, width, i)[0].transpose(1, 2, 0)
        path = folder / f'{i}.png'
        cv2.imwrite(str(path), (pixels * 255).astype(np.uint8))
        paths.append(str(path))
    return paths


def assert_like_pytorch(config, checkpoint, found, paths, box=0.02, score=1e-4):
    """``found`` are the data samples of mmdeploy; boxes are in pixels of the image files."""
    detector = init_detector(copy.deepcopy(config), checkpoint, device='cpu')
    assert len(found) == len(paths)
    for path, sample in zip(paths, found):
        expected, actual = (
            [values.numpy() for values in (sample.bboxes, sample.scores, sample.labels)]
            for sample in (inference_detector(detector, path).pred_instances, sample.pred_instances)
        )
        difference = compare(expected, actual)
        assert difference.within(box, score), str(difference)


# ---- conversion ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    """Folder, config, checkpoint and image files of a detector that was converted by the tool."""
    folder = tmp_path_factory.mktemp('mmdeploy')
    config = config_of(ATTO)
    # height and width differ; images are reduced by Pillow
    resize = dict(type='Resize', scale=(192, 128), keep_ratio=False, backend='pillow')
    pipeline_of(config)[2] = resize
    config.dump(folder / 'config.py')
    checkpoint = save_checkpoint(config, folder / 'atto.pth')
    paths = pictures(folder, (150, 210), (300, 250), (128, 192))
    tool = load_tool('mmdeploy_convert')
    arguments = [FOLDER / 'detection_onnxruntime_batch.py', folder / 'config.py', checkpoint]
    options = ['--work-dir', folder / 'out', '--dump-info', '--no-draw']
    tool.main([str(value) for value in (*arguments, paths[0], *options)])
    return folder, config, checkpoint, paths


def load_tool(name: str):
    sys.path.append(str(ROOT / 'tools'))  # tools import their neighbours
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_graph_is_that_of_export(converted, tmp_path):
    folder, config, checkpoint, _ = converted
    files = ['deploy.json', 'detail.json', 'end2end.onnx', 'pipeline.json']
    assert sorted(path.name for path in (folder / 'out').iterdir()) == files
    model = onnx.load(folder / 'out/end2end.onnx')
    detector = init_detector(config, checkpoint, device='cpu')
    options = ExportOptions(hw=(128, 192), batch_size=None)
    expected = export_onnx(detector, tmp_path / 'm.onnx', options)
    # boxes and scores are put side by side
    kinds = sorted([node.op_type for node in expected.graph.node] + ['Unsqueeze', 'Concat'])
    assert sorted(node.op_type for node in model.graph.node) == kinds
    assert {node.domain for node in model.graph.node} == {''}
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == dict(
        input=['batch', 3, 128, 192], dets=['batch', 100, 5], labels=['batch', 100]
    )


def test_inference_of_one_and_of_several(converted):
    folder, config, checkpoint, paths = converted
    files = [str(folder / 'out/end2end.onnx')]
    deploy = deploy_config('detection_onnxruntime_batch')
    for images in (paths[:1], paths):  # of different sizes
        found = inference_model(config, deploy, files, images, 'cpu')
        assert_like_pytorch(config, checkpoint, found, images)
    # an array has no file
    found = inference_model(config, deploy, files, cv2.imread(paths[1]), 'cpu')
    assert_like_pytorch(config, checkpoint, found, paths[1:2])


def test_test_gives_the_same_ap(converted, tmp_path):
    """What PyTorch is most certain of is the ground truth, so AP is far from 0 and from 1."""
    folder, _, checkpoint, paths = converted
    config = Config.fromfile(folder / 'config.py')
    detector = init_detector(config, checkpoint, device='cpu')
    data = dict(images=[], annotations=[], categories=[])
    data['categories'] = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    for i, path in enumerate(paths):
        height, width = cv2.imread(path).shape[:2]
        data['images'].append(dict(id=i, file_name=path, height=height, width=width))
        found = inference_detector(detector, path).pred_instances
        for box, label in zip(found.bboxes[:30:3].tolist(), found.labels[:30:3].tolist()):
            box = [*box[:2], box[2] - box[0], box[3] - box[1]]
            annotation = dict(id=len(data['annotations']) + 1, image_id=i, category_id=label)
            data['annotations'].append(dict(annotation, bbox=box, area=box[2] * box[3], iscrowd=0))
    ann_file = str(tmp_path / 'val.json')
    Path(ann_file).write_text(json.dumps(data))
    config.test_dataloader.dataset = dict(
        type='CocoDataset',
        ann_file=ann_file,
        data_prefix=dict(img=''),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
        pipeline=pipeline_of(config),
    )
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_evaluator = dict(type='CocoMetric', ann_file=ann_file, metric='bbox')
    config.dump(tmp_path / 'config.py')
    expected = evaluate(config, detector.test_step)
    assert 0.1 < expected['coco/bbox_mAP'] < 0.9
    arguments = [FOLDER / 'detection_onnxruntime_batch.py', tmp_path / 'config.py', '--model']
    options = [folder / 'out/end2end.onnx', '--work-dir', tmp_path / 'test', '--batch-size', 2]
    actual = load_tool('mmdeploy_test').main([str(value) for value in (*arguments, *options)])
    for key in ('coco/bbox_mAP', 'coco/bbox_mAP_50'):
        assert actual[key] == pytest.approx(expected[key], abs=2e-3)


def test_openvino(converted, tmp_path):
    pytest.importorskip('openvino')
    folder, config, checkpoint, paths = converted
    deploy = deploy_config('detection_openvino_batch')
    manager = get_backend_manager('openvino')
    files = manager.to_backend([str(folder / 'out/end2end.onnx')], str(tmp_path), deploy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['end2end.bin', 'end2end.xml']
    found = inference_model(config, deploy, files, paths, 'cpu')
    assert_like_pytorch(config, checkpoint, found, paths)
    assert fixed_batch(files[0]) is None
    model = shared_core().read_model(files[0])
    model.reshape([4, 3, 128, 192])
    pytest.importorskip('openvino').save_model(model, tmp_path / 'four.xml')
    assert fixed_batch(str(tmp_path / 'four.xml')) == 4


# fmt: off
BATCHES = [
    # of the graph, --batch-size, images of the test set, message
    (0, 3, 200, None),
    (4, 4, 200, None),
    (4, 1, 200, 'converted for batches of 4, got --batch-size 1. .* any batch, configs/deploy'),
    (4, 4, 201, 'converted for batches of 4, which the 201 images of the test set do not make up'),
]
# fmt: on


@pytest.mark.parametrize(('fixed', 'batch_size', 'images', 'message'), BATCHES)
def test_batches_of_a_static_graph(converted, tmp_path, fixed, batch_size, images, message):
    """Are refused before anything runs where it cannot take them."""
    graph = onnx.load(converted[0] / 'out/end2end.onnx')
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = fixed
    onnx.save(graph, tmp_path / 'm.onnx')
    args = SimpleNamespace(model=[str(tmp_path / 'm.onnx')], batch_size=batch_size)
    refuse = load_tool('mmdeploy_test').refuse_other_batches
    if message is None:
        refuse(args, images)
    else:
        with pytest.raises(ValueError, match=f'm.onnx was {message}'):
            refuse(args, images)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('device', ['cpu', 'cuda:0'])
def test_tensorrt_without_a_gpu(converted, tmp_path, device):
    """mmdeploy refuses it, without a way out."""
    folder, _, checkpoint, paths = converted
    files = [FOLDER / 'detection_tensorrt_static-640x640.py', folder / 'config.py', checkpoint]
    options = ['--work-dir', tmp_path / 'out', '--device', device]
    message = 'error: TensorRT in mmdeploy needs a GPU .* sees none here. tools/export.py --backend'
    with pytest.raises(SystemExit, match=message):
        tool = load_tool('mmdeploy_convert')
        tool.main([str(value) for value in (*files, paths[0], *options)])
    assert not (tmp_path / 'out').exists()


def test_tensorrt_engine_is_built_ahead_of_time(tmp_path):
    """Strongly typed float16, of a graph that is: float32 products cannot be built for the T4."""
    if not any(trt.is_rtx for trt in tensorrt_api.installed()):
        pytest.skip('TensorRT-RTX is not installed')
    config = config_of(ATTO)
    checkpoint = save_checkpoint(config, tmp_path / 'atto.pth')
    (image,) = pictures(tmp_path, (192, 192))
    deploy = deploy_config('detection_onnxruntime-fp16_static')
    torch2onnx(image, str(tmp_path), 'half.onnx', deploy, config, checkpoint, 'cpu')
    shapes = {f'{which}_shape': [1, 3, 192, 192] for which in ('min', 'opt', 'max')}
    deploy = deploy_config(
        'detection_tensorrt-fp16_static-640x640',
        backend_config__common_config__compute_capabilities=['7.5'],
        backend_config__model_inputs=[dict(input_shapes=dict(input=shapes))],
    )
    manager = get_backend_manager('tensorrt')
    (engine,) = manager.to_backend([str(tmp_path / 'half.onnx')], str(tmp_path), deploy)
    assert Path(engine).name == 'half.engine' and Path(engine).stat().st_size > 1e5
    # both libraries may be there: the one that built it runs it, on such GPUs
    assert library_for(engine, Gpu(0, 'Tesla T4', '7.5')).is_rtx
    with pytest.raises(ValueError, match='half.engine is for .*capability 7.5; here is A100.* 8.0'):
        library_for(engine, Gpu(0, 'A100', '8.0'))
    description = Path(f'{engine}.json')
    text = description.read_text()
    values = json.loads(text)
    description.write_text(json.dumps(dict(values, version='1.0')))
    with pytest.raises(ValueError, match='built by TensorRT-RTX 1.0, .*here is TensorRT-RTX'):
        library_for(engine, Gpu(0, 'Tesla T4', '7.5'))
    for wrong in ('', '[]', '{}', '{"mmdeploy": true}'):
        description.write_text(wrong)
        with pytest.raises(ValueError, match='half.engine.json, which says where .* convert again'):
            library_for(engine, Gpu(0, 'Tesla T4', '7.5'))
    # nothing that is for another size
    deploy.backend_config.model_inputs[0].input_shapes.input.min_shape = [1, 3, 64, 64]
    with pytest.raises(ValueError, match='cannot build an engine of .*half.onnx'):
        manager.to_backend([str(tmp_path / 'half.onnx')], str(tmp_path / 'new'), deploy)
    assert not list((tmp_path / 'new').glob('*'))


def test_tensorrt_wrapper(tmp_path, monkeypatch):
    """Without a GPU: what PyTorch and TensorRT are asked for."""
    engine = tmp_path / 'm.engine'
    engine.write_bytes(b'plan')
    target = EngineTarget('tensorrt_rtx', '1.7', ('7.5',), None)
    Path(f'{engine}.json').write_text(target.to_json())
    device = torch.device('cpu')
    cuda = dict(
        device=MagicMock(),
        current_device=lambda: 0,
        get_device_name=lambda: 'Tesla T4',
        get_device_capability=lambda: (7, 5),
        current_stream=lambda device: SimpleNamespace(cuda_stream=3),
    )
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    context = MagicMock()
    context.get_tensor_shape.return_value = (1, 2, 5)
    trt = MagicMock(flavour='tensorrt_rtx', version='1.7')
    trt.create_context.return_value = (context, None)
    trt.module.nptype.return_value = np.float32
    libraries = dict(tensorrt_rtx=trt, tensorrt=None)
    monkeypatch.setattr(tensorrt_api, 'load', libraries.get)
    wrapper = CurrentTensorRTWrapper(str(engine), ['dets'], 'cpu')
    image = torch.zeros(1, 3, 32, 32)
    assert wrapper(dict(input=image))['dets'].shape == (1, 2, 5)
    context.execute_async_v3.assert_called_once_with(3)
    # on the engine's GPU, whatever is the current one: when it is opened, and when it runs
    assert cuda['device'].call_args_list == [call(device)] * 2
    context.set_tensor_address.return_value = False
    with pytest.raises(ValueError, match='input is no tensor of the engine'):
        wrapper(dict(input=image))
    context.set_input_shape.return_value = False
    with pytest.raises(ValueError, match='no shape that the engine was built for'):
        wrapper(dict(input=image))
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (8, 0))
    with pytest.raises(ValueError, match='capability 7.5; here is .* 8.0.* convert again'):
        CurrentTensorRTWrapper(str(engine), ['dets'], 'cpu')


# detector, deploy config
# fmt: off
MORE = {
    'DEYO':              ('deyo/deyo_yolov8-atto_digits',                        'static'),
    'YOLOv8':            (YOLOV8,                                                'dynamic'),
    'RT-DETRv2':         ('rtdetrv2/rtdetrv2_r18vd_8xb2-120e_coco',              'dynamic'),
    'D-FINE':            ('dfine/dfine_hgnetv2-n_8xb16-160e_coco',               'dynamic'),
    'DN-DETR':           ('dn_detr/dn-detr_r50_8xb2-50e_coco',                   'dynamic'),
    'DN-Deformable':     ('dn_detr/dn-deformable-detr_hgnetv2-atto_digits',      'dynamic'),
    'DINO':              ('any_detr/deim_dino-4scale_r50_digits',                'static'),
}
# fmt: on


@pytest.mark.slow
@pytest.mark.parametrize('name', MORE)
def test_all_kinds_of_detectors(name, tmp_path):
    path, kind = MORE[name]
    config = config_of(path)
    shrink(config, (256, 192))
    checkpoint = save_checkpoint(config, tmp_path / 'weights.pth', (256, 192))
    paths = pictures(tmp_path, (256, 192), (200, 150))
    deploy = deploy_config(f'detection_onnxruntime_{kind}')
    torch2onnx(paths[0], str(tmp_path), 'm.onnx', deploy, config, checkpoint, 'cpu')
    batches = [paths[:1], paths] if kind == 'dynamic' else [paths[:1], paths[1:]]
    for images in batches:
        found = inference_model(config, deploy, [str(tmp_path / 'm.onnx')], images, 'cpu')
        assert_like_pytorch(config, checkpoint, found, images, box=0.1, score=2e-4)


def shrink(config: Config, hw) -> None:
    """Images of the test pipeline get a size."""
    for step in pipeline_of(config):
        if step.type == 'Resize':
            step.update(scale=hw[::-1], keep_ratio=False)
        elif step.type == 'Pad':
            step.size = hw[::-1]


@pytest.mark.slow
def test_letterbox_and_suppression(tmp_path):
    """Images keep their aspect and are padded; of YOLOv8's candidates those that overlap go."""
    config = letterbox_config()
    checkpoint = save_checkpoint(config, tmp_path / 'weights.pth')
    paths = pictures(tmp_path, (150, 100), (90, 200))
    deploy = deploy_config('detection_onnxruntime_batch')
    torch2onnx(paths[0], str(tmp_path), 'm.onnx', deploy, config, checkpoint, 'cpu')
    found = inference_model(config, deploy, [str(tmp_path / 'm.onnx')], paths, 'cpu')
    assert_like_pytorch(config, checkpoint, found, paths, box=0.1)


# ---- what the SDK reads --------------------------------------------------------------------------


def prepare_like_sdk(steps: list, image: np.ndarray):
    """The steps of pipeline.json, as the SDK documents them, and the scale of boxes.

    OpenCV resizes, whatever a config says.
    """
    for step in steps:
        kind = step['type']
        if kind == 'Resize':
            height, width = image.shape[:2]
            new_width, new_height = step['size']
            if step['keep_ratio']:
                long, short = max(step['size']), min(step['size'])
                scale = min(long / max(height, width), short / min(height, width))
                new_width, new_height = int(width * scale + 0.5), int(height * scale + 0.5)
            image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
            scales = (new_width / width, new_height / height)
        elif kind == 'Pad':
            height, width = image.shape[:2]
            if 'size' in step:
                to_width, to_height = step['size']
            else:
                divisor = step['size_divisor']
                to_height, to_width = (-(-side // divisor) * divisor for side in (height, width))
            value = step.get('pad_val', dict(img=[0]))['img'][0]
            padding = ((0, to_height - height), (0, to_width - width), (0, 0))
            image = np.pad(image, padding, constant_values=value)
        elif kind == 'Normalize':
            image = image[..., ::-1] if step['to_rgb'] else image
            image = (image.astype(np.float32) - np.float32(step['mean'])) / np.float32(step['std'])
        elif kind == 'DefaultFormatBundle':
            image = image.transpose(2, 0, 1)
        else:
            assert kind in ('LoadImageFromFile', 'Collect'), f'the SDK does not know {kind}'
    return image, scales


@pytest.mark.parametrize('keep_ratio', [False, True])
def test_sdk_pipeline(keep_ratio, tmp_path):
    """Image by image the network gets what it gets in PyTorch."""
    if keep_ratio:
        config = letterbox_config()
        shrink(config, (128, 224))
        pipeline_of(config)[2].keep_ratio = True
    else:
        config = config_of(ATTO)
        pipeline_of(config)[2].update(scale=(192, 128))
        pipeline_of(config)[2].pop('backend', None)  # what the SDK has no other choice for
    before = config.pretty_text
    # twice: the first changes nothing
    for _ in range(2):
        export2SDK(
            deploy_config('detection_onnxruntime_batch'), config, str(tmp_path), 'w.pth', 'cpu'
        )
    assert config.pretty_text == before
    tasks = json.loads((tmp_path / 'pipeline.json').read_text())['pipeline']['tasks']
    steps = tasks[0]['transforms']
    task = build_task_processor(config, deploy_config('detection_onnxruntime_batch'), 'cpu')
    # with keep_ratio a portrait would be higher than what it is padded to
    for path in pictures(tmp_path, (150, 210), (100, 300), (128, 192)):
        preprocessor = task.build_data_preprocessor()
        data, inputs = task.create_input(path, None, preprocessor)
        image, scales = prepare_like_sdk(steps, cv2.imread(path))
        np.testing.assert_allclose(image, inputs[0].numpy(), atol=1e-6)
        assert scales == pytest.approx(data['data_samples'][0].scale_factor, rel=1e-6)
    # results: scaled back, names of the graph
    assert tasks[1]['input_map'] == dict(img='input') and tasks[1]['is_batched']
    assert (tasks[2]['module'], tasks[2]['component']) == ('mmdet', 'ResizeBBox')
    (model,) = json.loads((tmp_path / 'deploy.json').read_text())['models']
    assert (model['net'], model['backend'], model['precision']) == (
        'end2end.onnx',
        'onnxruntime',
        'FP32',
    )


def test_sdk_itself(converted):
    """The SDK's own preparation and post-processing; it resizes by OpenCV."""
    runtime = pytest.importorskip('mmdeploy_runtime')
    if int(np.__version__.split('.')[0]) > 1:
        pytest.skip('labels of mmdeploy_runtime are wrong with NumPy 2')
    folder, config, checkpoint, paths = converted
    detector = runtime.Detector(str(folder / 'out'), 'cpu', 0)
    boxes, labels, _ = detector(cv2.imread(paths[2]))  # of the network's size
    expected = inference_detector(init_detector(config, checkpoint, device='cpu'), paths[2])
    expected = expected.pred_instances.numpy()
    found = [boxes[:, :4], boxes[:, 4], labels]
    # it keeps boxes within the last pixel
    limits = np.float32([191, 127, 191, 127])
    assert compare(
        [expected.bboxes.clip(0, limits), expected.scores, expected.labels], found
    ).within(0.02, 1e-4)


# ---- configs and bad input -----------------------------------------------------------------------


@pytest.mark.parametrize('name', DEPLOY_CONFIGS)
def test_deploy_configs(name):
    config = deploy_config(name)
    kind = name.split('_')[1].split('-')[0]
    assert get_backend(config).value == kind
    assert config.codebase_config.module == list(MODULES)
    if kind == 'sdk':
        return
    check(config)
    assert wants_half(config) == ('fp16' in name)
    shape = name.split('_')[2].split('-')[0]
    axes = config.onnx_config.get('dynamic_axes') or {}
    dynamic = dict(static=set(), batch={0}, dynamic={0, 2, 3})[shape]
    assert set(axes.get('input', ())) == dynamic
    if kind == 'tensorrt':
        shapes = config.backend_config.model_inputs[0].input_shapes.input
        sides = zip(shapes.min_shape, shapes.opt_shape, shapes.max_shape)
        for i, (smallest, best, largest) in enumerate(sides):
            assert smallest <= best <= largest
            assert (smallest < largest) == (i in dynamic)
            assert i < 2 or smallest % 32 == largest % 32 == 0


BAD = [
    # settings, what is said
    (
        dict(backend_config__type='ncnn'),
        'must be one of onnxruntime, tensorrt, openvino, got ncnn',
    ),
    (
        dict(codebase_config__model_type='ncnn_end2end'),
        "model_type must be 'end2end', got 'ncnn_end2end'",
    ),
    (
        dict(partition_config=dict(type='single_stage', apply_marks=True)),
        'partition_config .* leave it out',
    ),
    (
        dict(calib_config=dict(create_calib=True)),
        'calib_config and int8_mode are not supported: tools/export.py --int8',
    ),
    (
        dict(onnx_config__type='torchscript'),
        "onnx_config.type must be 'onnx', got 'torchscript'",
    ),
    (
        dict(onnx_config__opset_version=11),
        'opset_version must be from 17 to 20, got 11',
    ),
    (
        dict(onnx_config__output_names=['dets']),
        r"output_names=\['dets', 'labels'\], got \['input'\] and \['dets'\]",
    ),
    (
        dict(onnx_config__input_shape=[200, 192]),
        r'multiples of 32, got \[200, 192\]: take \[224, 192\]',
    ),
]


@pytest.mark.parametrize('settings, message', BAD)
def test_bad_deploy_config(settings, message, tmp_path):
    deploy = deploy_config('detection_onnxruntime_static', **settings)
    with pytest.raises(ValueError, match=message):
        torch2onnx('image.jpg', str(tmp_path), 'm.onnx', deploy, config_of(ATTO), device='cpu')
    assert not list(tmp_path.iterdir())


def test_failed_export_leaves_nothing(converted, tmp_path, monkeypatch):
    folder, config, checkpoint, paths = converted
    old = tmp_path / 'm.onnx'
    old.write_bytes(b'an older graph')

    def fail(*args, **kwargs):
        raise RuntimeError('disk full')

    monkeypatch.setattr(onnx, 'save', fail)
    deploy = deploy_config('detection_onnxruntime_static')
    with pytest.raises(RuntimeError, match='disk full'):
        torch2onnx(paths[0], str(tmp_path), 'm.onnx', deploy, config, checkpoint, 'cpu')
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b'an older graph']


def test_tools_are_quiet(converted, tmp_path):
    """What mmdeploy says in every run is left out, by its words."""
    folder, _, checkpoint, paths = converted
    arguments = [FOLDER / 'detection_onnxruntime_batch.py', folder / 'config.py', checkpoint]
    options = ['--work-dir', tmp_path, '--no-draw']
    command = [ROOT / 'tools/mmdeploy_convert.py', *arguments, paths[0], *options]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0 and 'written: ' in text, text
    assert 'Export PyTorch model to ONNX' in text
    for noise in ('Failed to search registry', 'already been registered', 'get_onnx_config'):
        assert noise not in text


def test_tool_wants_the_module(converted, tmp_path):
    folder, _, checkpoint, paths = converted
    config = deploy_config('detection_onnxruntime_static')
    del config.codebase_config['module']
    config.dump(tmp_path / 'deploy.py')
    arguments = [tmp_path / 'deploy.py', folder / 'config.py', checkpoint, paths[0]]
    tool = load_tool('mmdeploy_convert')
    with pytest.raises(SystemExit, match="module must name 'deim_mmdet.deploy.mmdeploy_support'"):
        tool.main([str(value) for value in arguments])


def test_other_deploy_configs_get_what_mmdeploy_does():
    """The registries are those of the process; the name of the module decides."""
    config, deploy = config_of(ATTO), deploy_config('detection_onnxruntime_static')
    deploy.onnx_config.opset_version = 11
    with pytest.raises(ValueError, match='from 17 to 20, got 11'):
        build_task_processor(config, deploy, 'cpu')
    for modules in ([], ['mmdet']):
        deploy.codebase_config.module = modules
        assert type(build_task_processor(config, deploy, 'cpu')) is ObjectDetection
    for name in MODULES:
        ours = deploy_config('detection_onnxruntime_static')
        ours.codebase_config.module = [name]
        assert type(build_task_processor(config, ours, 'cpu')) is DetectionTask


def test_a_broken_import_is_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, 'deim_mmdet.deploy.mmdeploy_support', None)
    with pytest.raises(ImportError, match='Failed to import'):
        deploy_config('detection_onnxruntime_static')


@pytest.mark.parametrize('first', ['deim_mmdet.deploy', 'mmdeploy'])
def test_order_of_imports(first, tmp_path):
    """A program may have used Detector before; custom_imports has no part in it."""
    config = deploy_config('detection_onnxruntime_static')
    config.pop('custom_imports')
    config.dump(tmp_path / 'deploy.py')
    config_of(ATTO).dump(tmp_path / 'config.py')
    code = f"""
import {first}
from deim_mmdet.deploy import Detector
from mmdeploy.apis import build_task_processor
from mmdeploy.utils import load_config
deploy, config = load_config({str(tmp_path / 'deploy.py')!r}, {str(tmp_path / 'config.py')!r})
print(type(build_task_processor(config, deploy, 'cpu')).__name__)
"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.split()[-1:] == ['DetectionTask'], out.stderr


def test_sdk_is_refused_with_numpy_2(monkeypatch):
    monkeypatch.setattr(np, '__version__', '2.4.6')
    with pytest.raises(ValueError, match='labels .* wrong with NumPy 2 or newer, found 2.4.6'):
        check(deploy_config('detection_sdk'))
    monkeypatch.setattr(np, '__version__', '1.26.4')
    check(deploy_config('detection_sdk'))


def test_other_processes(tmp_path):
    """The package comes without mmdeploy; a process that mmdeploy starts has what we registered."""
    caller = tmp_path / 'caller.pkl'
    caller.write_bytes(pickle.dumps(PIPELINE_MANAGER.get_caller(to_backend)))
    code = f"""
import pickle, sys
import deim_mmdet.deploy
assert not [name for name in sys.modules if 'mmdeploy' in name]
pickle.load(open({str(caller)!r}, 'rb'))
from mmdeploy.backend.base import get_backend_manager
print(*(get_backend_manager(name).__name__ for name in ('openvino', 'tensorrt')))
"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.split()[-2:] == ['CurrentOpenVINO', 'CurrentTensorRT'], out.stderr
