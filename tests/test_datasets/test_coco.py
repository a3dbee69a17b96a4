# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
import os
import sys

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from deim_mmdet.datasets import CheckedCocoDataset, CheckedCocoMetric
from deim_mmdet.datasets.checks import (
    CLIPPED,
    EMPTY,
    NOT_A_BOX,
    OUTSIDE,
    SOUND,
    TOO_THIN,
    check_annotations,
    check_num_classes,
    read_annotations,
)

from .conftest import annotation


def dataset(ann_file, **kwargs):
    kwargs.setdefault('data_prefix', dict(img=os.path.join(os.path.dirname(ann_file), 'images')))
    return CheckedCocoDataset(ann_file=ann_file, **kwargs)


def labels(data):
    infos = [data.get_data_info(i) for i in range(len(data))]
    return [[instance['bbox_label'] for instance in info['instances']] for info in infos]


# Classes and category ids
# ------------------------------------------------------------------------------------------------


def test_classes_come_from_the_file_with_any_ids(coco):
    data = dataset(coco([annotation(1, [1, 1, 9, 9]), annotation(2, [1, 1, 9, 9], 2, 3)]))
    assert data.metainfo['classes'] == ('cat', 'dog')
    assert labels(data) == [[0], [1]]
    assert len(data.metainfo['palette']) == 2
    assert data.cat2label == {7: 0, 3: 1}


def test_labels_follow_the_order_of_the_named_classes(coco):
    path = coco([annotation(1, [1, 1, 9, 9]), annotation(2, [1, 1, 9, 9], 2, 3)])
    assert labels(dataset(path, metainfo=dict(classes=('dog', 'cat')))) == [[1], [0]]
    # Classes that are not named are not objects.
    assert labels(dataset(path, metainfo=dict(classes=('dog',)))) == [[], [0]]


def test_a_class_without_category_does_not_shift_the_others(coco, caplog):
    path = coco([annotation(1, [1, 1, 9, 9]), annotation(2, [1, 1, 9, 9], 2, 3)])
    assert labels(dataset(path, metainfo=dict(classes=('cat', 'cow', 'dog')))) == [[0], [2]]
    checked = check_annotations(read_annotations(path), path, ('cat', 'cow', 'dog'))
    assert [str(p) for p in checked.warnings if "'cow'" in p.message]
    assert checked.category_ids == (7, None, 3)


def test_classes_that_match_nothing_are_refused_with_both_lists(coco):
    path = coco([annotation(1, [1, 1, 9, 9])])
    with pytest.raises(ValueError, match="asked for 'Cats', 'person'; the file has 'cat'") as info:
        dataset(path, metainfo=dict(classes=('Cats', 'person')))
    assert "'Cats' may mean 'cat'" in str(info.value)
    assert path in str(info.value)


# Boxes
# ------------------------------------------------------------------------------------------------

BOXES = [  # xywh in a 40 x 30 image, verdict, what training sees (xyxy)
    ([1, 2, 3, 4], SOUND, [1, 2, 4, 6]),
    ([0, 0, 40, 30], SOUND, [0, 0, 40, 30]),
    ([38, 1, 2.5, 5], SOUND, [38, 1, 40, 6]),  # half a pixel beyond: a rounding error
    ([-5, -5, 20, 20], CLIPPED, [0, 0, 15, 15]),
    ([30, 20, 100, 100], CLIPPED, [30, 20, 40, 30]),
    ([1, 1, 0.5, 9], TOO_THIN, None),
    ([39.5, 1, 5, 5], TOO_THIN, None),
    ([40, 1, 5, 5], OUTSIDE, None),
    ([-9, 1, 5, 5], OUTSIDE, None),
    ([1, 1, 0, 5], EMPTY, None),
    ([1, 1, 5, -5], EMPTY, None),
    ([float('nan'), 1, 5, 5], NOT_A_BOX, None),
    ([1, float('inf'), 5, 5], NOT_A_BOX, None),
    ([1, 1, 5], NOT_A_BOX, None),
    (None, NOT_A_BOX, None),
    (['a', 1, 5, 5], NOT_A_BOX, None),
]


def bad_boxes(boxes):
    return [dict(id=i + 1, image_id=1, category_id=7, bbox=box) for i, box in enumerate(boxes)]


@pytest.mark.parametrize(('box', 'verdict', 'seen'), BOXES)
def test_verdict_on_a_box(coco, box, verdict, seen):
    path = coco([annotation(9, [1, 1, 5, 5], 2), *bad_boxes([box])])
    checked = check_annotations(read_annotations(path), path)
    assert checked.verdicts.tolist() == [SOUND, verdict]
    instances = dataset(path).get_data_info(0)['instances']
    assert [instance['bbox'] for instance in instances] == ([seen] if seen else [])
    warned = [str(problem) for problem in checked.warnings]
    assert len(warned) == (verdict != SOUND)
    if warned:
        assert '1 of 2 boxes' in warned[0] and 'annotation 1 of a.jpg' in warned[0]
        assert path in warned[0]


def test_one_warning_for_each_kind_counts_and_names_the_first(coco):
    path = coco(bad_boxes([[1, 1, 5, 5]] + [[50, 1, 5, 5]] * 3 + [[1, 1, 0, 5]] * 2))
    warned = [p.message for p in check_annotations(read_annotations(path), path).warnings]
    assert len(warned) == 2
    assert '2 of 6 boxes have no width or no height; dropped. The first: annotation 5' in warned[0]
    assert '3 of 6 boxes are wholly outside' in warned[1] and 'annotation 2 of a.jpg' in warned[1]


def test_usual_mix_ups_of_box_formats_are_named(coco):
    path = coco(bad_boxes([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.9, 0.9]]))
    assert 'normalised' in check_annotations(read_annotations(path), path).problems[-1].remedy
    path = coco(bad_boxes([[20, 10, 39, 29], [25, 16, 38, 30], [1, 1, 9, 8]]))
    assert '[x1, y1, x2, y2]' in check_annotations(read_annotations(path), path).warnings[0].remedy


def test_crowds_are_flagged_and_ignored_ones_left_out(coco):
    crowd = dict(annotation(2, [2, 2, 9, 9]), iscrowd=1)
    path = coco([annotation(1, [1, 1, 9, 9]), crowd, annotation(3, [3, 3, 9, 9], ignore=1)])
    instances = dataset(path).get_data_info(0)['instances']
    assert [instance['ignore_flag'] for instance in instances] == [0, 1]


# Files and counts
# ------------------------------------------------------------------------------------------------

CAT_TWICE = [dict(id=7, name='cat'), dict(id=7, name='dog')]
REFUSED = [  # changes to a sound file, what the message says
    (dict(images=[]), 'lists no image'),
    (dict(categories=[]), 'lists no category'),
    (dict(categories=[dict(id=1)]), 'lack an id or a name'),
    (dict(categories=CAT_TWICE), 'category ids are used more'),
    (dict(categories=[dict(id=7, name='cat'), dict(id=3, name='cat')]), 'category names are used'),
    (dict(images=[dict(id=1, file_name='a.jpg')]), r'images\[0\] \(a.jpg\) lacks height, width'),
    (dict(images=[dict(id=1, file_name='a', width=0, height=9)]), 'has the size 0 x 9'),
    (dict(images=[dict(id=1, file_name=n, width=9, height=9) for n in 'ab']), 'image ids are used'),
    (dict(images=[dict(id=1, file_name='x.jpg', width=40, height=30)]), 'none of the 1 image'),
]


@pytest.mark.parametrize(('changes', 'message'), REFUSED)
def test_files_that_cannot_be_used_are_refused(coco, changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(coco([annotation(1, [1, 1, 9, 9])], **changes))


def test_missing_and_wrong_files_are_named(coco, tmp_path):
    path = coco([annotation(1, [1, 1, 9, 9])])
    with pytest.raises(FileNotFoundError, match=r"anm.json does not exist; .* 'ann.json'"):
        dataset(str(tmp_path / 'anm.json'))
    with pytest.raises(FileNotFoundError, match=f'only {tmp_path} exists'):
        dataset(str(tmp_path / 'nowhere' / 'ann.json'))
    with pytest.raises(ValueError, match='the image folder does not exist'):
        dataset(path, data_prefix=dict(img=str(tmp_path / 'pictures')))
    (tmp_path / 'cut.json').write_text(open(path).read()[:50])
    with pytest.raises(ValueError, match='cut.json is not a JSON file'):
        dataset(str(tmp_path / 'cut.json'))
    (tmp_path / 'list.json').write_text('[1, 2]')
    with pytest.raises(ValueError, match='not of the COCO format.*holds a list'):
        dataset(str(tmp_path / 'list.json'))
    with pytest.raises(ValueError, match='No annotation file is given'):
        CheckedCocoDataset()


def test_training_needs_an_object_unless_told_otherwise(coco):
    path = coco([])
    with pytest.raises(ValueError, match='no usable object.*filter_empty_gt=False'):
        dataset(path, filter_cfg=dict(filter_empty_gt=True))
    assert labels(dataset(path)) == [[], []]
    assert labels(dataset(path, filter_cfg=dict(filter_empty_gt=False))) == [[], []]
    assert labels(dataset(path, test_mode=True, filter_cfg=dict(filter_empty_gt=True))) == [[], []]
    with pytest.raises(ValueError, match='leaves none of the 2 images'):
        dataset(coco([annotation(1, [1, 1, 9, 9])]), filter_cfg=dict(min_size=64))


def test_images_without_objects_are_filtered_on_request(coco):
    path = coco([annotation(1, [1, 1, 9, 9], 2), annotation(2, [99, 1, 9, 9], 1)])
    assert len(dataset(path)) == 2
    # The only box of image 1 is outside it: such an image is empty, too.
    assert len(dataset(path, filter_cfg=dict(filter_empty_gt=True))) == 1
    assert len(dataset(path, filter_cfg=dict(filter_empty_gt=True), test_mode=True)) == 2


def test_dangling_and_double_annotations_are_warned_of(coco):
    path = coco(
        [
            annotation(1, [1, 1, 9, 9]),
            annotation(1, [1, 1, 9, 9]),
            annotation(2, [1, 1, 9, 9], image_id=99),
            annotation(3, [1, 1, 9, 9], category_id=99),
        ]
    )
    checked = check_annotations(read_annotations(path), path)
    assert not checked.errors
    text = '\n'.join(map(str, checked.warnings))
    assert 'an image that the file does not list; ignored. The first: annotation 2' in text
    assert 'a category that the file does not list; ignored. The first: annotation 3' in text
    assert '1 annotation ids are missing or used more than once, the first is 1' in text
    assert '1 objects are listed more than once' in text
    assert checked.usable.tolist() == [True, True, False, False]


def test_judging_changes_nothing(coco):
    path = coco(bad_boxes([[-5, 1, 9, 9], None, [1, 1, 5, 5]]))
    content = read_annotations(path)
    before = json.dumps(content)
    check_annotations(content, path)
    assert json.dumps(content) == before


# Number of classes
# ------------------------------------------------------------------------------------------------


def test_num_classes_that_does_not_fit_says_what_to_set():
    assert check_num_classes({'model.bbox_head.num_classes': 2}, ('cat', 'dog')) == []
    (problem,) = check_num_classes({'model.bbox_head.num_classes': 80}, ('cat', 'dog'))
    assert "bbox_head.num_classes is 80, but the data set has 2 classes ('cat'" in str(problem)
    assert '--cfg-options model.bbox_head.num_classes=2' in problem.remedy


# Evaluation
# ------------------------------------------------------------------------------------------------


def evaluate(metric, classes, found):
    """Feed a metric with found = {image id: [(xyxy box, label, score)]}."""
    metric.dataset_meta = dict(classes=classes)
    samples = []
    for image_id, objects in found.items():
        sample = DetDataSample(metainfo=dict(img_id=image_id, ori_shape=(30, 40)))
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([box for box, _, _ in objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
            scores=torch.tensor([score for _, _, score in objects], dtype=torch.float32),
        )
        samples.append(sample.to_dict())
    metric.process({}, samples)
    return metric.evaluate(len(samples))


TRUTH = [annotation(1, [1, 1, 20, 20]), annotation(2, [5, 5, 20, 20], 2, 3)]
# The cat is found exactly; the dog with IoU 10 * 20 / (2 * 400 - 200) = 1/3, so not at any
# threshold.
FOUND = {1: [([1, 1, 21, 21], 0, 0.9)], 2: [([15, 5, 35, 25], 1, 0.8)]}


def test_metric_equals_mmdet_where_that_is_right(coco):
    path = coco(TRUTH)
    ours = evaluate(CheckedCocoMetric(path), ('cat', 'dog'), FOUND)
    assert ours == evaluate(CocoMetric(path), ('cat', 'dog'), FOUND)
    assert ours['coco/bbox_mAP'] == 0.5 and ours['coco/bbox_mAP_50'] == 0.5


def test_metric_follows_the_order_of_the_classes(coco):
    swapped = {i: [(box, 1 - label, score) for box, label, score in o] for i, o in FOUND.items()}
    metric = CheckedCocoMetric(coco(TRUTH), classwise=True)
    scores = evaluate(metric, ('dog', 'cat'), swapped)
    assert scores['coco/bbox_mAP'] == 0.5
    assert (scores['coco/cat_precision'], scores['coco/dog_precision']) == (1.0, 0.0)


def test_metric_leaves_out_a_class_the_file_lacks(coco):
    found = {1: [([1, 1, 21, 21], 1, 0.9), ([1, 1, 9, 9], 0, 0.99)], 2: [([5, 5, 25, 25], 2, 0.8)]}
    scores = evaluate(CheckedCocoMetric(coco(TRUTH)), ('cow', 'cat', 'dog'), found)
    assert scores['coco/bbox_mAP'] == 1.0


def test_metric_repairs_what_would_crash_or_count_wrong(coco):
    perfect = {1: [([1, 1, 21, 21], 0, 0.9)], 2: [([5, 5, 25, 25], 1, 0.8)]}
    bare = [
        {key: ann[key] for key in ('bbox', 'image_id', 'category_id')} for ann in TRUTH
    ]  # no id, area, iscrowd
    hopeless = bad_boxes([[float('nan'), 1, 5, 5], [50, 1, 5, 5], [1, 1, 0, 5]])
    scores = evaluate(CheckedCocoMetric(coco([*bare, *hopeless])), ('cat', 'dog'), perfect)
    assert scores['coco/bbox_mAP'] == 1.0
    # COCO evaluation takes a match with annotation id 0 for none.
    zero = [dict(ann, id=ann['id'] - 1) for ann in TRUTH]
    assert evaluate(CocoMetric(coco(zero)), ('cat', 'dog'), perfect)['coco/bbox_mAP'] == 0.5
    assert evaluate(CheckedCocoMetric(coco(zero)), ('cat', 'dog'), perfect)['coco/bbox_mAP'] == 1.0


def test_metric_counts_the_images_that_were_evaluated(coco):
    scores = evaluate(CheckedCocoMetric(coco(TRUTH)), ('cat', 'dog'), {1: FOUND[1]})
    assert scores['coco/bbox_mAP'] == 1.0


def test_metric_writes_the_category_ids_of_the_file(coco, tmp_path):
    metric = CheckedCocoMetric(coco(TRUTH), outfile_prefix=str(tmp_path / 'out'))
    found = {1: [([1, 1, 21, 21], 2, 0.9), ([1, 1, 9, 9], 1, 0.9)], 2: []}
    scores = evaluate(metric, ('dog', 'cow', 'cat'), found)
    assert scores['coco/bbox_mAP'] == 0.5  # the cat is found, the dog is not, there is no cow
    written = json.loads((tmp_path / 'out.bbox.json').read_text())
    assert [(entry['image_id'], entry['category_id']) for entry in written] == [(1, 7)]


def test_metric_of_a_set_without_objects_is_undefined(coco):
    scores = evaluate(CheckedCocoMetric(coco([])), ('cat', 'dog'), FOUND)
    assert scores['coco/bbox_mAP'] == -1.0


def many_results(seed=0, images=24, classes=5):
    """Truth and results with every kind of match: crowds, small ones, several for one object."""
    rng = np.random.default_rng(seed)
    truth, found = [], {}
    for image_id in range(1, images + 1):
        wh = np.exp(rng.normal(3, 1, (9, 2))).clip(2, 39)
        boxes = np.concatenate([rng.random((9, 2)) * ((640, 480) - wh), wh], axis=1)
        labels = rng.integers(classes, size=9)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            truth.append(annotation(len(truth) + 1, box, image_id, label + 1))
            truth[-1]['iscrowd'] = int(rng.random() < 0.05)
        boxes = np.repeat(boxes, 2, axis=0)
        boxes[:, 2:] += boxes[:, :2]
        boxes += rng.normal(0, 1.5, boxes.shape)
        found[image_id] = list(zip(boxes.tolist(), np.repeat(labels, 2).tolist(), rng.random(18)))
    changes = dict(
        images=[
            dict(id=i, file_name=f'{i}.jpg', width=640, height=480) for i in range(1, images + 1)
        ],
        categories=[dict(id=i + 1, name=f'class {i}') for i in range(classes)],
    )
    return truth, found, changes


@pytest.mark.parametrize('metric', ['bbox', 'proposal'])
def test_results_need_no_file(coco, metric):
    truth, found, changes = many_results()
    path = coco(truth, **changes)
    classes = tuple(f'class {i}' for i in range(5))
    options = dict(metric=metric, classwise=True)
    ours = evaluate(CheckedCocoMetric(path, **options), classes, found)
    theirs = evaluate(CocoMetric(path, **options), classes, found)
    assert ours == pytest.approx(theirs, nan_ok=True) and len(ours) > 5


@pytest.mark.parametrize('seed', range(3))
def test_faster_engine_gives_the_same_numbers(coco, seed, monkeypatch):
    pytest.importorskip('faster_coco_eval')
    truth, found, changes = many_results(seed)
    path = coco(truth, **changes)
    classes = tuple(f'class {i}' for i in range(5))
    stats, scores = [], []
    for engine in ('pycocotools', 'faster_coco_eval'):
        metric = CheckedCocoMetric(path, engine=engine, classwise=True)
        make = metric._engine

        def keep(*args, make=make):
            stats.append(make(*args))
            return stats[-1]

        metric._engine = keep
        scores.append(evaluate(metric, classes, found))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6, nan_ok=True)
    slow, fast = (np.asarray(evaluator.stats[:12]) for evaluator in stats)
    np.testing.assert_allclose(slow, fast, rtol=0, atol=1e-6)  # before they are rounded
    assert 0.1 < slow[0] < 0.9


def test_engine_that_is_not_there(coco, monkeypatch):
    path = coco(TRUTH)
    with pytest.raises(ValueError, match="engine must be 'pycocotools' or"):
        CheckedCocoMetric(path, engine='cocotools')
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    with pytest.raises(ImportError, match='pip install faster-coco-eval'):
        CheckedCocoMetric(path, engine='faster_coco_eval')


def test_one_way_to_be_faster(coco):
    pytest.importorskip('faster_coco_eval')
    with pytest.raises(ValueError, match='use_mp_eval=True'):
        CheckedCocoMetric(coco(TRUTH), engine='faster_coco_eval', use_mp_eval=True)


def test_metric_refuses_classes_that_match_nothing(coco):
    with pytest.raises(ValueError, match='none of the 1 classes asked for'):
        evaluate(CheckedCocoMetric(coco(TRUTH)), ('cow',), FOUND)


def test_boxes_are_plain_numbers(coco):
    info = dataset(coco(TRUTH)).get_data_info(0)
    assert all(type(value) is float for value in info['instances'][0]['bbox'])
    assert not isinstance(info['instances'][0]['bbox_label'], np.generic)
