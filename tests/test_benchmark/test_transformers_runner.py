# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What benchmark_latency times of transformers finds the same objects with the same weights."""

import numpy as np
import pytest
import torch

pytest.importorskip('transformers')
pytest.importorskip('safetensors')
pytest.importorskip('onnx')

from deim_mmdet.benchmark.latency import Protocol
from deim_mmdet.benchmark.latency_candidates import candidate
from deim_mmdet.benchmark.training_step import build_model
from deim_mmdet.benchmark.transformers_peer import transformers_model
from deim_mmdet.benchmark.transformers_runner import TransformersRunner
from deim_mmdet.deploy import ExportOptions, describe
from deim_mmdet.deploy.runners.torch_runner import TorchRunner
from tests.fixtures import fill
from tests.test_peers.small_models import random_weights

HW = (96, 128)


def test_same_weights_same_detections(small_config):
    small_config.model.test_cfg.max_per_img = small_config.model.num_queries  # as many as there
    detector = build_model(small_config, 'cpu').eval()
    detector.load_state_dict(random_weights(detector.state_dict()))
    metadata = describe(detector, small_config, ExportOptions(HW))
    peer = transformers_model(small_config, detector)
    ours, theirs = TorchRunner(detector, metadata), TransformersRunner(*peer, metadata)
    feeds = dict(images=np.asarray(fill.image(*HW, 5)))
    expected, found = ours.run(feeds), theirs.run(feeds)
    assert [value.shape for value in expected] == [value.shape for value in found]
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
    np.testing.assert_array_equal(found[2], expected[2])
    clipped = found[0].clip(0, [HW[1], HW[0]] * 2)  # as ours are
    np.testing.assert_allclose(clipped, expected[0], atol=0.05)

    network = TransformersRunner(*peer, metadata, postprocess=False)
    logits, boxes = network.run(feeds)
    assert logits.shape == (1, 20, 7) and boxes.shape == (1, 20, 4)
    timed = candidate('transformers', theirs, network, Protocol(HW, image_hw=HW, threads=1))
    assert set(timed.timers) == {'network', 'detections', 'end to end'}
    assert all(timer(1)[0] > 0 for timer in timed.timers.values())


def test_it_is_timed_as_users_load_it(small_config):
    """Norms are not folded, channels come first."""
    detector = build_model(small_config, 'cpu').eval()
    metadata = describe(detector, small_config, ExportOptions(HW))
    theirs = TransformersRunner(*transformers_model(small_config, detector), metadata)
    modules = list(theirs.module.modules())
    assert any('BatchNorm' in type(module).__name__ for module in modules)
    weights = [m.weight for m in modules if isinstance(m, torch.nn.Conv2d)]
    assert all(weight.is_contiguous() for weight in weights)
    assert not theirs.module.training
