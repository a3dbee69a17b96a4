# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import contextlib
import functools
import io
import os.path as osp
import tempfile
from typing import Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from mmengine.fileio import dump, load
from mmengine.logging import print_log

from .checks import TOO_THIN, check_annotations, read_annotations


@METRICS.register_module()
class CheckedCocoMetric(CocoMetric):
    """COCO AP for data sets that :class:`CheckedCocoDataset` accepts.

    The numbers are those of ``CocoMetric`` wherever it gives right ones. Differs from it:

    * label ``i`` is ``classes[i]``: ``CocoMetric`` takes the order of the categories in the file,
      and gives wrong AP without a word where that order is another one;
    * a class that the file lacks is left out of the mean;
    * only the images that were evaluated count (a data set may be cut by ``indices``);
    * ``area`` and ``iscrowd`` may be left out, annotation ids may repeat or be 0, and annotations
      without a box that could be found (not finite, empty, outside the image) are dropped.

    Args:
        ann_file (str): Annotation file of the data set that is evaluated.
        backend_args (dict, optional): As in ``CocoMetric``. Defaults to None.
        engine (str): Who computes AP: 'pycocotools', or 'faster_coco_eval' (a package of its own),
            which gives the same numbers in less time. Defaults to 'pycocotools'.
        **kwargs: Other arguments of ``CocoMetric``.

    Raises:
        ImportError: When the engine is not installed.
        ValueError: When there is no such engine, or it does not do what is asked for.
    """

    def __init__(
        self,
        ann_file: str,
        backend_args: Optional[dict] = None,
        engine: str = 'pycocotools',
        **kwargs,
    ) -> None:
        super().__init__(ann_file=None, backend_args=backend_args, **kwargs)
        self._engine = find_engine(engine)
        if engine != 'pycocotools' and self.use_mp_eval:
            raise ValueError(
                f'use_mp_eval=True divides the work of pycocotools, and engine={engine!r} needs no '
                'such help; take one of the two out.'
            )
        self.ann_file = ann_file
        self._content = read_annotations(ann_file, backend_args)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        if self._coco_api is None:
            self._prepare(self.dataset_meta['classes'])
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> Dict[str, float]:
        if self._coco_api is None:
            self._prepare(self.dataset_meta['classes'])
        self.img_ids = sorted(
            {truth['img_id'] for truth, _ in results}, key=lambda i: (str(type(i)), i)
        )
        if len(self.img_ids) < len(self._coco_api.imgs):
            print_log(
                f'{len(self.img_ids)} of the {len(self._coco_api.imgs)} images of {self.ann_file} '
                'are evaluated.',
                logger='current',
            )
        # pycocotools prints; its table belongs into the log, the rest is of no use to anybody.
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), _evaluating_by(self._engine):
            metrics = super().compute_metrics(results)
        table = [line for line in printed.getvalue().splitlines() if line.startswith(' Average')]
        print_log('\n'.join(['', *table]), logger='current')
        return metrics

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        if self.outfile_prefix is None:
            if any('masks' in result for result in results):
                return super().results2json(results, outfile_prefix)
            found = self._describe(results)
            return dict.fromkeys(('bbox', 'proposal'), found)
        # The files a user asks for bear the category ids of the annotation file; those evaluated
        # here are labels.
        labels, self.cat_ids = self.cat_ids, self._category_ids
        files = super().results2json(results, outfile_prefix)
        self.cat_ids = labels
        if None in self._category_ids:
            for file in set(files.values()):
                dump([found for found in load(file) if found['category_id'] is not None], file)
        if self.format_only:
            return files
        self._scratch = tempfile.TemporaryDirectory()
        return super().results2json(results, osp.join(self._scratch.name, 'results'))

    def _describe(self, results: Sequence[dict]) -> List[dict]:
        """The boxes that ``CocoMetric`` writes to a file, and reads back, when nobody wants it."""
        found = []
        for result in results:
            boxes = result['bboxes'].astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            scores, labels = result['scores'].tolist(), result['labels'].tolist()
            for box, score, label in zip(boxes.tolist(), scores, labels):
                found.append(
                    dict(
                        image_id=result['img_id'],
                        bbox=box,
                        score=score,
                        category_id=self.cat_ids[label],
                    )
                )
        return found

    def _prepare(self, classes: Sequence[str]) -> None:
        """Build the ground truth with the labels as category ids.

        COCO evaluation sorts the categories by id, and ``CocoMetric`` reads its tables in the order
        of the classes: with labels for ids the two are the same.
        """
        checked = check_annotations(self._content, self.ann_file, classes, need_objects=False)
        if checked.errors:
            raise ValueError('\n'.join(map(str, checked.errors)))
        annotations = []
        for i, annotation in enumerate(checked.annotations):
            # Thin boxes stay: they are objects like others to COCO evaluation.
            if (
                checked.verdicts[i] > TOO_THIN
                or checked.labels[i] < 0
                or checked.image_index[i] < 0
            ):
                continue
            annotation = dict(
                annotation, id=len(annotations) + 1, category_id=int(checked.labels[i])
            )
            annotation.setdefault('area', annotation['bbox'][2] * annotation['bbox'][3])
            annotation.setdefault('iscrowd', 0)
            annotations.append(annotation)
        # A class that the file lacks has no annotation: its AP is undefined, and left out of the
        # mean.
        categories = [dict(id=label, name=name) for label, name in enumerate(checked.classes)]
        api = COCO()
        api.dataset = dict(
            info={},
            licenses=[],
            images=checked.images,
            annotations=annotations,
            categories=categories,
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            api.createIndex()
        # The aliases of mmdet's class still hold the maps from before.
        api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs
        self._coco_api = api
        self._category_ids = checked.category_ids
        self.cat_ids = list(range(len(categories)))
        self._content = None


def find_engine(name: str) -> Callable:
    """What makes a ``COCOeval`` of ground truth, results and the type of IoU.

    Args:
        name (str): 'pycocotools' or 'faster_coco_eval'.

    Returns:
        Callable: Class or function.

    Raises:
        ImportError: When it is not installed.
        ValueError: When there is none of that name.
    """
    if name == 'pycocotools':
        return coco_metric.COCOeval
    if name != 'faster_coco_eval':
        raise ValueError(f"engine must be 'pycocotools' or 'faster_coco_eval', but got {name!r}")
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        raise ImportError(
            "engine='faster_coco_eval' needs a package: pip install faster-coco-eval; or take "
            'engine out of the evaluator, pycocotools gives the same numbers'
        ) from error
    return functools.partial(COCOeval_faster, print_function=print)


@contextlib.contextmanager
def _evaluating_by(engine: Callable) -> Iterator[None]:
    """Within it, ``CocoMetric`` takes this in the place of ``COCOeval``, and results that are no
    file as they are.

    NOTE: the names in its module are the only place where ``CocoMetric`` can be told.
    """
    originals = coco_metric.COCOeval, coco_metric.load
    coco_metric.COCOeval = engine
    coco_metric.load = lambda found: load(found) if isinstance(found, str) else found
    try:
        yield
    finally:
        coco_metric.COCOeval, coco_metric.load = originals
