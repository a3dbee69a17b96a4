# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import colorsys
import os.path as osp
from typing import List, Optional

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.logging import print_log

from .checks import CheckedAnnotations, check_annotations, check_image_folder, read_annotations


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """A COCO-format data set that says what is wrong with its files before training starts.

    Differs from ``CocoDataset``:

    * without ``metainfo`` the classes are those of the annotation file, in its order, not COCO's
      80;
    * label ``i`` is always ``classes[i]``, whatever order and ids the categories of the file have
      (evaluate with ``CheckedCocoMetric``, which maps them back in the same way);
    * classes that match nothing, a missing file or folder, and a training set without any object
      are refused;
    * boxes are clipped to the image; those that are no box, empty, outside, or thinner than a pixel
      are dropped, with one warning for each kind that counts them and names the first;
    * ``area`` and ``iscrowd`` may be left out.

    Args:
        *args: Arguments of ``CocoDataset``.
        **kwargs: Arguments of ``CocoDataset``.

    Raises:
        FileNotFoundError: When the annotation file is missing.
        ValueError: When the files cannot be used; the message names the file, the first case and
        the cure.
    """

    METAINFO = {}  # classes come from ``metainfo`` or the annotation file

    def load_data_list(self) -> List[dict]:
        content = read_annotations(self.ann_file, self.backend_args)
        keeps_empty = self.test_mode or not (self.filter_cfg or {}).get('filter_empty_gt', False)
        checked = check_annotations(
            content, self.ann_file, self._metainfo.get('classes'), need_objects=not keeps_empty
        )
        self._report(checked)
        self._metainfo['classes'] = checked.classes
        self._metainfo.setdefault('palette', distinct_colours(len(checked.classes)))
        # The names that mmdet's other code knows these by.
        self.cat_ids = [cat_id for cat_id in checked.category_ids if cat_id is not None]
        self.cat2label = {
            cat_id: label for label, cat_id in enumerate(checked.category_ids) if cat_id is not None
        }

        data_list = [self._describe(image) for image in checked.images]
        for i in checked.usable.nonzero()[0]:
            annotation = checked.annotations[i]
            if annotation.get('ignore', False):
                continue
            instance = dict(
                ignore_flag=int(bool(annotation.get('iscrowd', False))),
                bbox=checked.boxes[i].tolist(),
                bbox_label=int(checked.labels[i]),
            )
            if annotation.get('segmentation'):
                instance['mask'] = annotation['segmentation']
            data_list[checked.image_index[i]]['instances'].append(instance)
        return data_list

    def filter_data(self) -> List[dict]:
        if self.test_mode or self.filter_cfg is None:
            return self.data_list
        min_size = self.filter_cfg.get('min_size', 0)
        need_objects = self.filter_cfg.get('filter_empty_gt', False)
        kept = [
            info
            for info in self.data_list
            if min(info['width'], info['height']) >= min_size
            and (info['instances'] or not need_objects)
        ]
        if not kept:
            raise ValueError(
                f'{self.ann_file}: filter_cfg={dict(self.filter_cfg)} leaves none of the '
                f'{len(self.data_list)} images; relax it.'
            )
        return kept

    def prepare_data(self, idx: int) -> Optional[dict]:
        data = super().prepare_data(idx)
        if data is None and self.test_mode:
            raise ValueError(
                f'{self.get_data_info(idx)["img_path"]} was skipped by the pipeline, and '
                'evaluation needs every image: replace the file, or take the image out of '
                f'{self.ann_file}.'
            )
        return data

    def _describe(self, image: dict) -> dict:
        """The entry of an image as the pipelines of mmdet want it, without objects yet."""
        info = dict(
            img_path=osp.join(self.data_prefix.get('img') or '', image['file_name']),
            img_id=image['id'],
            seg_map_path=None,
            height=image['height'],
            width=image['width'],
            instances=[],
        )
        if self.data_prefix.get('seg'):
            stem = osp.splitext(image['file_name'])[0]
            info['seg_map_path'] = osp.join(self.data_prefix['seg'], stem + self.seg_map_suffix)
        if self.return_classes:
            info['text'] = self._metainfo['classes']
            info['caption_prompt'] = self.caption_prompt
            info['custom_entities'] = True
        return info

    def _report(self, checked: CheckedAnnotations) -> None:
        errors, warnings = checked.errors, checked.warnings
        img_dir = self.data_prefix.get('img') or ''
        if not errors and self.backend_args is None and '://' not in img_dir:
            in_folder = check_image_folder(checked.images, img_dir, self.ann_file)
            errors = [problem for problem in in_folder if problem.level == 'error']
            warnings = warnings + [problem for problem in in_folder if problem.level == 'warning']
        for problem in warnings:
            print_log(str(problem), logger='current', level=30)  # logging.WARNING
        if errors:
            raise ValueError('\n'.join(map(str, errors)))


def distinct_colours(count: int) -> List[tuple]:
    """RGB colours in [0, 255] that lie apart: hues in steps of the golden angle, two
    brightnesses."""
    colours = []
    for i in range(count):
        rgb = colorsys.hsv_to_rgb(i * 0.381966 % 1, 0.85 - 0.25 * (i % 2), 0.95 - 0.3 * (i % 3) / 2)
        colours.append(tuple(int(255 * value) for value in rgb))
    return colours
