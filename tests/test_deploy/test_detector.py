# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Three lines from an exported file to boxes, without PyTorch and mmdet."""

import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from mmdet.registry import TRANSFORMS  # noqa: E402

from deim_mmdet.deploy import (  # noqa: E402
    Detector,
    ExportOptions,
    InputFormat,
    compare_with_pytorch,
    describe,
    export_onnx,
)
from deim_mmdet.deploy.detector import Detections, read_image, resize, suppress  # noqa: E402
from deim_mmdet.deploy.metadata import KEY, Metadata  # noqa: E402
from deim_mmdet.deploy.parity import compare  # noqa: E402
from tests.test_deploy.models import (  # noqa: E402
    ATTO,
    YOLOV8,
    config_of,
    detector_of,
    letterbox_config,
    photograph,
)

HW = (192, 192)
CLASSES = tuple('zero one two three four five six seven eight nine'.split())


def write(path, name=ATTO, config=None, **options):
    options = ExportOptions(HW, **options)
    config = config or config_of(name)
    metadata = describe(detector_of(name), config, options, CLASSES, score_threshold=0.0)
    export_onnx(detector_of(name), path, options, metadata)
    return path


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    return write(tmp_path_factory.mktemp('exported') / 'atto.onnx')


@pytest.fixture(scope='module')
def any_batch(tmp_path_factory):
    return write(tmp_path_factory.mktemp('any_batch') / 'atto.onnx', batch_size=None)


@pytest.fixture(scope='module')
def photo():
    """Not of the network's size."""
    return photograph()


def pytorch_detections(name, image, config=None):
    """What mmdet's test pipeline and the detector make of an image."""
    config, detector = config or config_of(name), detector_of(name)
    data = dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
    for step in config.test_dataloader.dataset.pipeline:
        if step.type in ('Resize', 'Pad', 'PackDetInputs'):
            step = dict(step)
            if step['type'] == 'PackDetInputs':
                step['meta_keys'] = ('ori_shape', 'img_shape', 'scale_factor')
            data = TRANSFORMS.build(step)(data)
    with torch.no_grad():
        (sample,) = detector.test_step(
            dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        )
    found = sample.pred_instances
    return found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy()


def test_same_boxes_as_the_test_pipeline(exported, photo):
    expected = pytorch_detections(ATTO, photo)
    found = Detector(exported)(photo)
    assert compare(expected, found).within(0.1, 1e-4)
    assert (found.boxes >= 0).all() and (found.boxes <= [240, 150, 240, 150]).all()
    assert len(found.scores) == 100 and (np.diff(found.scores) <= 0).all()


def test_metadata_says_all_that_is_needed(exported):
    meta = Detector(exported).metadata
    assert meta.classes == CLASSES and meta.hw == HW and meta.precision == 'float32'
    assert (meta.mean, meta.std) == ((0, 0, 0), (255, 255, 255))
    assert (meta.network_channels, meta.max_per_img, meta.nms_iou) == ('rgb', 100, None)
    (entry,) = [e for e in onnx.load(exported).metadata_props if e.key == KEY]
    assert Metadata.from_json(entry.value, 'x') == meta


def test_what_it_says_of_itself(exported, any_batch):
    version = Detector(exported).runner.name
    assert repr(Detector(exported)) == (
        f"Detector('{exported}', {version}, float32, images: 1 x 192 x 192, 10 classes: zero, one, "
        'two, ...)'
    )
    assert 'images: any number x 192 x 192' in repr(Detector(any_batch))


def test_images_arrays_files_and_lists(exported, photo, tmp_path):
    path = tmp_path / 'photo.png'
    cv2.imwrite(str(path), photo)
    detector = Detector(exported)
    one, other = detector([photo, path])  # a graph for one image runs twice
    for value, again in zip(one, other):
        np.testing.assert_array_equal(value, again)
    assert detector([]) == []


@pytest.mark.parametrize('batch_size', [2, None])
def test_batches(exported, photo, tmp_path, batch_size):
    """An image alone or in a batch has the same boxes, also in the last, smaller batch."""
    detector = Detector(write(tmp_path / 'm.onnx', batch_size=batch_size))
    flipped = np.ascontiguousarray(photo[:, ::-1])
    alone = Detector(exported)
    for image, found in zip((photo, flipped, photo), detector([photo, flipped, photo])):
        assert compare(alone(image), found).within(1e-2, 1e-5)


def test_many_images_go_through_in_parts(any_batch, photo, monkeypatch):
    """And are read part by part."""
    monkeypatch.setattr('deim_mmdet.deploy.detector.MAX_BATCH', 2)
    detector = Detector(any_batch)
    events, run = [], detector.runner.run

    def read(image):
        events.append('read')
        return read_image(image)

    def run_and_note(feeds):
        events.append(len(feeds['images']))
        return run(feeds)

    monkeypatch.setattr('deim_mmdet.deploy.detector.read_image', read)
    monkeypatch.setattr(detector.runner, 'run', run_and_note)
    assert len(detector([photo] * 5)) == 5
    assert [event for event in events if event != 'read'] == [2, 2, 1]
    assert events.index(2) < 5 and events[-1] == 1 and 'read' in events[events.index(2) :]


def test_fewer_images_than_a_runner_takes(exported, any_batch, photo, monkeypatch):
    """The last one comes again, and is not in the results."""
    detector = Detector(any_batch)
    monkeypatch.setattr(detector.runner, 'smallest_batch', 4)
    feeds, scales = detector.feeds([photo, photo[::-1]])
    assert len(feeds['images']) == 4 and len(scales) == 2
    np.testing.assert_array_equal(feeds['images'][1], feeds['images'][3])
    assert compare(Detector(exported)(photo), detector(photo)).within(1e-2, 1e-5)
    assert compare_with_pytorch(detector_of(ATTO), detector, [photo]).within(0.1, 1e-4)
    assert len(detector([photo] * 6)) == 6


def test_threshold_and_size(exported, photo, tmp_path):
    scores = Detector(exported)(photo).scores
    middle = float(np.median(scores))
    assert (Detector(exported, score_threshold=middle)(photo).scores >= middle).all()
    with pytest.raises(ValueError, match='takes images of 192 x 192, not 224 x 192: export with'):
        Detector(exported, hw=(224, 192))
    free = write(tmp_path / 'm.onnx', dynamic_size=True)
    assert len(Detector(free, hw=(224, 256))(photo).scores) == 100
    with pytest.raises(ValueError, match='64 x 64 have 80 cells, and the model selects 100 quer'):
        Detector(free, hw=(64, 64))


def test_all_formats_find_the_same(exported, photo, tmp_path):
    expected = Detector(exported)(photo)
    for i, image_format in enumerate(
        [InputFormat('uint8', 'nhwc', 'bgr'), InputFormat('float', original_size=True)]
    ):
        path = write(tmp_path / f'{i}.onnx', input_format=image_format)
        assert compare(expected, Detector(path)(photo)).within(0.1, 1e-4)


def test_resizing_inside(photo, tmp_path):
    """Boxes are in pixels of the image as it came; images of two sizes may come together."""
    image_format = InputFormat('uint8', 'nhwc', 'bgr', resize=True)
    detector = Detector(write(tmp_path / 'm.onnx', input_format=image_format, batch_size=None))
    first, second = detector([photo, photo[:100]])
    assert first.boxes[:, [0, 2]].max() > 192 and second.boxes[:, [1, 3]].max() <= 100
    assert compare_with_pytorch(detector_of(ATTO), detector, [photo]).within(0.1, 1e-4)


@pytest.mark.parametrize('candidates', [False, True])
@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_suppression(photo, tmp_path, candidates, backend):
    """YOLOv8, inside the graph or after it, of several images: as mmdet does it, image by image.

    The letterbox is undone.
    """
    pytest.importorskip(backend)
    config = letterbox_config()
    path = write(tmp_path / 'm.onnx', YOLOV8, config, batch_size=None, candidates=candidates)
    detector = Detector(path, score_threshold=0.001, backend=backend)
    assert detector.metadata.keep_ratio
    assert detector.metadata.nms_iou == (0.7 if candidates else None)
    batch = [photo, np.ascontiguousarray(photo[::-1]), np.ascontiguousarray(photo[:100])]
    for image, found in zip(batch, detector(batch)):
        boxes, *rest = pytorch_detections(YOLOV8, image, config)
        # mmdet lets boxes reach into the padding
        expected = boxes.clip(0, np.float32(image.shape[1::-1] * 2)), *rest
        assert len(found.scores) == len(expected[1]) > 10
        np.testing.assert_allclose(found.scores, expected[1], atol=1e-4)
        assert compare(expected, found).within(0.1, 1e-4)


def test_suppression_pads_with_scores_of_zero(photo, tmp_path):
    """Where fewer are left than fit; they are no detections."""
    detector = copy.deepcopy(detector_of(YOLOV8))
    detector.test_cfg = dict(detector.test_cfg, nms=dict(type='nms', iou_threshold=0.05))
    config, options = config_of(YOLOV8), ExportOptions(HW, batch_size=2)
    metadata = describe(detector, config, options, CLASSES)
    export_onnx(detector, tmp_path / 'm.onnx', options, metadata)
    exported = Detector(tmp_path / 'm.onnx', score_threshold=0.0)
    boxes, scores, labels = exported.runner.run(exported.feeds([photo, photo[::-1]])[0])
    assert boxes.shape == (2, 300, 4) and scores.shape == labels.shape == (2, 300)
    for found, values in zip(exported([photo, photo[::-1]]), scores):
        assert 10 < len(found.scores) < 300 and (found.scores > 0.001).all()
        assert (values[len(found.scores) :] == 0).all()
        kept = suppress(found.boxes, found.labels, 0.05)
        assert len(kept) == len(found.boxes)  # nothing that overlaps is left
    assert compare_with_pytorch(detector, exported, [photo]).within(0.1, 1e-4)


# fmt: off
BAD_SUPPRESSION = [
    (YOLOV8, dict(type='soft_nms', iou_threshold=0.5),                   False, 'type=.nms.'),
    (YOLOV8, dict(type='nms', iou_threshold=0.5, class_agnostic=True),   False, 'class_agnostic'),
    (ATTO,   None,                            True,  'DFINE finds objects once.*--candidates'),
]
# fmt: on


@pytest.mark.parametrize(('name', 'nms', 'candidates', 'message'), BAD_SUPPRESSION)
def test_bad_suppression(tmp_path, name, nms, candidates, message):
    detector = copy.copy(detector_of(name))
    if nms:
        detector.test_cfg = dict(detector.test_cfg, nms=nms)
    with pytest.raises(ValueError, match=message):
        export_onnx(detector, tmp_path / 'm.onnx', ExportOptions(HW, candidates=candidates))
    assert list(tmp_path.iterdir()) == []


def test_suppress():
    boxes = np.float32(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [20, 0, 30, 10], [0, 0, 10, 4]]
    )
    labels = np.array([0, 0, 1, 0, 0])
    # the second overlaps the first by 0.9; the third is of another class; the last by 0.4
    np.testing.assert_array_equal(suppress(boxes, labels, 0.5), [0, 2, 3, 4])
    np.testing.assert_array_equal(suppress(boxes, labels, 0.3), [0, 2, 3])
    assert suppress(boxes[:0], labels[:0], 0.5).shape == (0,)


@pytest.mark.parametrize('keep_ratio', [False, True])
@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_resize_is_mmdets(photo, keep_ratio, backend):
    step = dict(type='Resize', scale=(192, 160), keep_ratio=keep_ratio, backend=backend)
    data = TRANSFORMS.build(step)(dict(img=photo, img_shape=photo.shape[:2]))
    image, scale = resize(photo, (160, 192), keep_ratio, backend)
    np.testing.assert_array_equal(image, data['img'])
    np.testing.assert_allclose(scale, data['scale_factor'])


@pytest.mark.parametrize('hw', [(100, 75), (75, 100), (90, 90), (1, 500)])
@pytest.mark.parametrize('canvas', [(192, 320), (320, 192)])
def test_letterbox_on_a_canvas_that_is_not_square(hw, canvas):
    """Portraits, too, fit into what the graph takes, and are as large as they can be."""
    image = np.full((*hw, 3), 200, np.uint8)
    resized, scale = resize(image, canvas, True, 'pillow')
    new = resized.shape[:2]
    assert all(1 <= side <= limit for side, limit in zip(new, canvas))
    assert any(side == limit for side, limit in zip(new, canvas))
    assert scale == (new[1] / hw[1], new[0] / hw[0])


def test_portrait_of_a_letterboxed_model(tmp_path):
    """As large as it can be at the upper left, the rest is grey; boxes are in its own pixels."""
    options = ExportOptions((192, 320))
    metadata = describe(detector_of(YOLOV8), letterbox_config(), options, CLASSES)
    export_onnx(detector_of(YOLOV8), tmp_path / 'm.onnx', options, metadata)
    detector = Detector(tmp_path / 'm.onnx', 0.0)
    portrait = photograph(160, 120)
    prepared, scale = detector.preprocess(portrait)
    assert prepared.shape == (3, 192, 320) and scale == (1.2, 1.2)
    np.testing.assert_allclose(prepared[:, :, 144:], metadata.pad_value / 255, atol=1e-6)
    assert (prepared[:, :, :144].std((1, 2)) > 0.1).all()
    found = detector(portrait)
    assert len(found.scores) > 10
    assert (found.boxes >= 0).all() and (found.boxes <= [120, 160, 120, 160]).all()
    assert compare_with_pytorch(detector_of(YOLOV8), detector, [portrait]).within(0.1, 1e-4)


def test_draw(exported, photo):
    detector = Detector(exported)
    box = np.float32([[20, 30, 120, 100]])
    drawn = detector.draw(photo, Detections(box, np.float32([0.9]), np.array([3])))
    assert drawn.shape == photo.shape and drawn.dtype == np.uint8
    changed = (drawn != photo).any(-1)
    assert changed[30:100, 20].all() and not changed[110:].any()
    empty = Detections(box[:0], np.float32([]), np.array([], int))
    np.testing.assert_array_equal(detector.draw(photo, empty), photo)


def test_lines_and_letters_grow_with_the_image(exported):
    detector = Detector(exported)
    found = Detections(np.float32([[100, 100, 250, 300]]), np.float32([0.9]), np.array([3]))
    drawn = {}
    for height, width in ((320, 320), (1080, 1920)):
        grey = np.full((height, width, 3), 127, np.uint8)
        drawn[width] = (detector.draw(grey, found) != grey).any(-1)
    # px of the line at the right, and of the label's height at the left
    assert {side: image[250, 200:300].sum() for side, image in drawn.items()} == {320: 1, 1920: 5}
    small, large = (image[100:200, 110].sum() for image in drawn.values())
    assert 8 <= small <= 16 and 20 <= large <= 36


# ---- bad input -----------------------------------------------------------------------------------


def test_bad_images(exported, tmp_path):
    detector = Detector(exported)
    with pytest.raises(
        TypeError, match=r'uint8 of shape \(H, W, 3\).*got float32 of shape \(2, 2, 3\)'
    ):
        detector(np.zeros((2, 2, 3), np.float32))
    with pytest.raises(TypeError, match=r'got uint8 of shape \(2, 2\)'):
        detector(np.zeros((2, 2), np.uint8))
    for images, got in ((None, 'NoneType$'), ([None], 'NoneType in the list$'), (3, 'int$')):
        with pytest.raises(TypeError, match=f'an image is an array, .* or a file; .*got {got}'):
            detector(images)
    with pytest.raises(IsADirectoryError, match='is a folder: give its files, as a list'):
        detector(tmp_path)
    with pytest.raises(FileNotFoundError, match='missing.jpg: no such file'):
        detector(tmp_path / 'missing.jpg')
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ValueError, match='text.jpg cannot be read as an image'):
        detector(tmp_path / 'text.jpg')


def test_bad_files(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        Detector(tmp_path / 'missing.onnx')
    (tmp_path / 'text.onnx').write_text('no graph')
    with pytest.raises(ValueError, match='text.onnx is no ONNX file'):
        Detector(tmp_path / 'text.onnx')
    model = onnx.load(exported)
    value = model.metadata_props[0].value
    model.metadata_props[0].value = value.replace('"format": 1', '"format": 99')
    onnx.save(model, tmp_path / 'newer.onnx')
    with pytest.raises(
        ValueError, match='by deim_mmdet .* in format 99, this version reads format 1'
    ):
        Detector(tmp_path / 'newer.onnx')
    del model.metadata_props[:]
    onnx.save(model, tmp_path / 'other.onnx')
    with pytest.raises(ValueError, match='was not written by tools/export.py'):
        Detector(tmp_path / 'other.onnx')
    with pytest.raises(TypeError, match='path must be that of an exported file, .* got list'):
        Detector([None])
    with pytest.raises(ValueError, match=r'score_threshold must be in \[0, 1\], .* got 7'):
        Detector(exported, score_threshold=7)
    with pytest.raises(ValueError, match='has no NoSuchProvider, but .*CPUExecutionProvider'):
        Detector(exported, providers=['NoSuchProvider'])


def test_letterboxed_images_are_not_stretched_inside():
    for image_format in (InputFormat(resize=True), InputFormat(original_size=True)):
        with pytest.raises(ValueError, match='keep their aspect'):
            options = ExportOptions(HW, input_format=image_format)
            describe(detector_of(YOLOV8), letterbox_config(), options)


def test_rotated_photographs_are_turned(tmp_path, photo):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(photo[..., ::-1]).save(tmp_path / 'photo.png', exif=exif)
    np.testing.assert_array_equal(
        read_image(tmp_path / 'photo.png'), cv2.rotate(photo, cv2.ROTATE_90_CLOCKWISE)
    )


def test_unknown_fields_of_the_same_format_are_ignored(exported):
    meta = Detector(exported).metadata
    text = replace(meta, classes=None).to_json().replace('{', '{"later": 1, ', 1)
    assert Metadata.from_json(text, 'x').classes is None
