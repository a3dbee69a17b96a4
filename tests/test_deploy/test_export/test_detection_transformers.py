# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DN-DETR, and what it is made of, by the stages of mmdet's detectors."""

import numpy as np
import pytest
import torch

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

import onnxruntime
from mmengine.config import Config
from mmengine.utils import get_installed_path

from deim_mmdet.deploy import EndToEnd, ExportOptions, export_onnx
from deim_mmdet.deploy.export.graph import foreign_operators
from deim_mmdet.deploy.parity import compare
from tests.test_deploy.models import images, random_detector, run_pytorch
from tests.test_models.parity import ROOT
from tests.test_models.samples import data_samples
from tests.test_models.small_dn_detr import CONFIG_OF, small_model

from .test_zoo import differences

HW = (96, 128)
# mmdet's own: config, channels of its last backbone level
MMDET = {
    'DINO': ROOT / 'configs/any_detr/dino-4scale_r50_8xb2-12e_coco.py',
    'DETR': '.mim/configs/detr/detr_r50_8xb2-150e_coco.py',
}
EVERYDAY = ('DNDETR', 'DNDeformableDETR')
RARE = ('DenoisingConditionalDETR', 'DenoisingDeformableDETR', 'two stages', *MMDET)
KINDS = [*EVERYDAY, *(pytest.param(kind, marks=pytest.mark.slow) for kind in RARE)]


def small_detector(kind: str):
    if kind in CONFIG_OF:
        model = small_model(kind)
    elif kind == 'two stages':
        model = small_model('DenoisingDeformableDETR')
        model.update(as_two_stage=True, with_box_refine=True)
    else:
        path = MMDET[kind]
        path = f'{get_installed_path("mmdet")}/{path}' if isinstance(path, str) else path
        model = Config.fromfile(path).model
        model.backbone.update(depth=18, base_channels=16, stem_channels=16, init_cfg=None)
        model.neck.in_channels = [16 * 2**level for level in model.backbone.out_indices]
        model.encoder.num_layers, model.decoder.num_layers, model.num_queries = 1, 2, 20
        model.bbox_head.num_classes, model.test_cfg.max_per_img = 10, 20
    return random_detector(Config(dict(model=model)))


@pytest.mark.parametrize('kind', KINDS)
def test_what_predict_gives(kind):
    """Boxes, scores and labels of images without padding, digit by digit."""
    detector = small_detector(kind)
    batch = torch.from_numpy(images(HW, 2))
    with torch.no_grad():
        results = detector.predict(batch, data_samples((1, 1), HW), rescale=False)
        boxes, scores, labels = EndToEnd(detector)(batch)
    for i, result in enumerate(results):
        torch.testing.assert_close(boxes[i], result.pred_instances.bboxes)
        torch.testing.assert_close(scores[i], result.pred_instances.scores)
        assert torch.equal(labels[i], result.pred_instances.labels)


# fmt: off
GRAPHS = [
    # options, height and width, images, largest difference in pixels and score
    ({},                                                   HW,        1, 0.1, 1e-4),
    (dict(half=True, batch_size=None),                     HW,        2, 1.0, 1e-2),
    # its coarsest level has one column
    (dict(half=True, batch_size=None, dynamic_size=True),  (160, 64), 2, 1.0, 1e-2),
]
# fmt: on
# Share of the detections that float16 is held to. Rounding makes DINO choose another query: so it
# does in PyTorch, on an image with noise of the size of one rounding.
SHARES = dict(DINO=0.5)


@pytest.mark.parametrize('kind', KINDS)
def test_graphs(kind, tmp_path):
    detector = small_detector(kind)
    for i, (options, hw, count, box, score) in enumerate(GRAPHS):
        path = tmp_path / f'{i}.onnx'
        model = export_onnx(detector, path, ExportOptions(HW, **options))
        assert foreign_operators(model) == {}
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        batch = images(hw, count)
        expected = run_pytorch(detector, ExportOptions(hw), batch)
        actual = session.run(None, dict(images=batch))
        if 'half' in options and kind in SHARES:
            error = np.quantile(differences(expected, actual), SHARES[kind], axis=1)
            assert (error <= (box, score)).all(), (options, error)
        else:
            for image in range(count):
                found = compare([v[image] for v in expected], [v[image] for v in actual])
                assert found.within(box, score), f'{options}: {found}'
        assert np.isfinite(actual[0]).all()
