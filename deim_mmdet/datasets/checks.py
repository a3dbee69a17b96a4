# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a COCO-format data set, found by pure functions.

``CheckedCocoDataset``, ``CheckedCocoMetric``, ``LoadReadableImage`` and ``tools/check_dataset.py``
all judge with these functions, so what the tool reports before training is what training does.
Nothing here changes a file or the content handed in.
"""

import difflib
import json
import os.path as osp
from collections import Counter
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmengine.fileio import get as read_bytes

# Verdicts on a box, from sound to hopeless. Boxes from TOO_THIN on are dropped.
SOUND, CLIPPED, TOO_THIN, OUTSIDE, EMPTY, NOT_A_BOX = range(6)
# A box may stick out by a rounding error without a word; it is clipped all the same.
EDGE_TOLERANCE = 1.0  # px


@dataclass(frozen=True)
class Problem:
    """One kind of problem in one file.

    Args:
        level (str): 'error' (training or evaluation refuses to start) or 'warning' (it goes on as
            ``message`` says).
        file (str): The annotation file, image or configuration it was found in.
        message (str): How many, what, and the first case by name.
        remedy (str): What the user can do about it.
    """

    level: str
    file: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.file}: {self.message} {self.remedy}'


@dataclass(frozen=True)
class CheckedAnnotations:
    """The usable part of an annotation file, beside the problems it has; T annotations, I images.

    Args:
        images (list[dict]): Entries of the file.
        annotations (list[dict]): Entries of the file.
        classes (tuple[str]): Class names in the order of their labels.
        category_ids (tuple): Category id of each class; None for a class that the file does not
            have.
        boxes (np.ndarray): Boxes in pixels, clipped to their images, shape (T, 4), ordered (x1, y1,
            x2, y2); NaN where there is none.
        labels (np.ndarray): Label of each annotation, shape (T,); -1 where its category is no class
            of ours.
        image_index (np.ndarray): Position in ``images``, shape (T,); -1 where the file has no such
            image.
        verdicts (np.ndarray): Verdict on each box, shape (T,).
        problems (list[Problem]): What was found, the errors first.
    """

    images: List[dict]
    annotations: List[dict]
    classes: Tuple[str, ...]
    category_ids: Tuple[Optional[Hashable], ...]
    boxes: np.ndarray
    labels: np.ndarray
    image_index: np.ndarray
    verdicts: np.ndarray
    problems: List[Problem]

    @property
    def usable(self) -> np.ndarray:
        """Mask of the annotations that training uses, crowds included; shape (T,), bool."""
        return (self.verdicts < TOO_THIN) & (self.labels >= 0) & (self.image_index >= 0)

    @property
    def errors(self) -> List[Problem]:
        return [problem for problem in self.problems if problem.level == 'error']

    @property
    def warnings(self) -> List[Problem]:
        return [problem for problem in self.problems if problem.level == 'warning']


def read_annotations(ann_file: str, backend_args: Optional[dict] = None) -> dict:
    """Read a COCO-format file; its lists are there, what is in them is not looked at.

    Args:
        ann_file (str): Path or address of the JSON file.
        backend_args (dict, optional): File backend of mmengine. Defaults to None.

    Returns:
        dict: The content, with a list under each of 'images', 'annotations' and 'categories'.

    Raises:
        FileNotFoundError: When the file is missing.
        ValueError: When it is not JSON, or not of the COCO format.
    """
    if not ann_file:
        raise ValueError('No annotation file is given: set ann_file to a COCO-format JSON file.')
    if backend_args is None and '://' not in ann_file and not osp.isfile(ann_file):
        raise FileNotFoundError(_missing_file(ann_file))
    try:
        content = json.loads(read_bytes(ann_file, backend_args=backend_args))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{ann_file} is not a JSON file ({error}). Name a COCO-format annotation file, or '
            'write it again if it was cut off.'
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ('images', 'categories')
    ):
        found = (
            f'keys {sorted(content)}'
            if isinstance(content, dict)
            else f'a {type(content).__name__}'
        )
        raise ValueError(
            f"{ann_file} is not of the COCO format: it needs the lists 'images', 'annotations' and "
            "'categories', "
            f'and holds {found}. Convert it first.'
        )
    # Files that only list test images have no annotations.
    content.setdefault('annotations', [])
    if not isinstance(content['annotations'], list):
        raise ValueError(
            f"{ann_file}: 'annotations' must be a list, got "
            f'{type(content["annotations"]).__name__}.'
        )
    return content


def check_annotations(
    content: dict, ann_file: str, classes: Optional[Sequence[str]] = None, need_objects: bool = True
) -> CheckedAnnotations:
    """Judge the content of an annotation file.

    Args:
        content (dict): Result of :func:`read_annotations`.
        ann_file (str): Name of the file, for the messages.
        classes (Sequence[str], optional): Names of the classes in the order of their labels; None
            takes all categories of the file in its order. Defaults to None.
        need_objects (bool): Whether a set without any usable object is an error. Defaults to True.

    Returns:
        CheckedAnnotations: What can be used, and what is wrong.
    """
    report = _Report(ann_file)
    images = _check_images(content['images'], report)
    names, category_ids, label_of = _match_classes(content['categories'], classes, report)

    annotations = []
    for annotation in content['annotations']:
        if isinstance(annotation, dict):
            annotations.append(annotation)
    if len(annotations) < len(content['annotations']):
        report.warning(
            f'{len(content["annotations"]) - len(annotations)} entries of annotations are not '
            'objects; ignored.',
            'Remove them.',
        )
    position = {image['id']: i for i, image in enumerate(images)}
    image_index = _look_up(position, annotations, 'image_id')
    labels = _look_up(label_of, annotations, 'category_id')
    boxes, verdicts = _check_boxes(images, annotations, image_index, report)
    checked = CheckedAnnotations(
        images,
        annotations,
        names,
        category_ids,
        boxes,
        labels,
        image_index,
        verdicts,
        report.problems,
    )
    _check_references(checked, content['categories'], report)
    _check_counts(checked, need_objects, report)
    report.problems.sort(key=lambda problem: problem.level)  # 'error' before 'warning'; stable
    return checked


def check_image_folder(
    images: Sequence[dict], img_dir: str, ann_file: str, limit: Optional[int] = 64
) -> List[Problem]:
    """Whether the image files are where they are looked for.

    Args:
        images (Sequence[dict]): Entries of the annotation file.
        img_dir (str): Folder that ``file_name`` starts from.
        ann_file (str): Name of the annotation file, for the messages.
        limit (int, optional): Look at this many files, evenly spread; None looks at all. Defaults
            to 64.

    Returns:
        list[Problem]: An error when the folder, or every file looked at, is missing; a warning for
        some.
    """
    if not osp.isdir(img_dir or '.'):
        return [
            Problem(
                'error',
                img_dir,
                'the image folder does not exist.',
                f'Set data_root and data_prefix so that they lead to the images of {ann_file}.',
            )
        ]
    step = 1 if limit is None else max(1, -(-len(images) // limit))
    looked_at = images[::step]
    missing = [
        image['file_name']
        for image in looked_at
        if not osp.isfile(osp.join(img_dir, image['file_name']))
    ]
    if not missing:
        return []
    first = osp.join(img_dir, missing[0])
    if len(missing) == len(looked_at):
        return [
            Problem(
                'error',
                img_dir,
                f'none of the {len(looked_at)} image files looked at is there, e.g. {first}.',
                'file_name is appended to the image folder as it stands: name the folder it '
                'starts from.',
            )
        ]
    return [
        Problem(
            'warning' if limit is not None else 'error',
            img_dir,
            f'{len(missing)} of the {len(looked_at)} image files looked at are missing, the first '
            f'is {first}.',
            'Add the files, or take the images out of the annotation file.',
        )
    ]


def check_image_files(
    images: Sequence[dict], img_dir: str, workers: int = 1
) -> Iterator[Tuple[str, Optional[Problem]]]:
    """Decode every image.

    Args:
        images (Sequence[dict]): Entries of an annotation file.
        img_dir (str): Folder that ``file_name`` starts from.
        workers (int): Threads. Defaults to 1.

    Yields:
        tuple[str, Problem | None]: The path of each image, in order, and what is wrong with it.
    """

    def check(image):
        path = osp.join(img_dir, image['file_name'])
        return path, check_image_file(path, (image['height'], image['width']))

    if workers <= 1:
        yield from map(check, images)
        return
    with ThreadPoolExecutor(workers) as pool:
        # In slices: handing over a million images at once would queue up a million results.
        remaining = iter(images)
        while batch := list(islice(remaining, 64 * workers)):
            yield from pool.map(check, batch)


def check_image_file(path: str, hw: Optional[Tuple[int, int]] = None) -> Optional[Problem]:
    """Decode one image and compare its size with the annotation file's ``hw`` (height, width in
    pixels)."""
    try:
        data = read_bytes(path)
    except OSError as error:
        return Problem(
            'error', path, f'the image cannot be opened ({error}).', 'Put the file there.'
        )
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) if data else None
    damage = find_image_damage(data, image is not None)
    if damage:
        return Problem(
            'error',
            path,
            f'{damage}.',
            "Replace the file, or train without it: LoadReadableImage(unreadable='skip').",
        )
    if hw is not None and image.shape[:2] != tuple(hw):
        turned = image.shape[:2] == tuple(hw)[::-1]
        return Problem(
            'error',
            path,
            f'the image is {image.shape[1]} x {image.shape[0]} (width x height) and the '
            f'annotation file says {hw[1]} x {hw[0]}.',
            'The image is turned by its EXIF orientation when it is loaded: annotate the turned '
            'image, or save it without the tag.'
            if turned
            else 'Were the images resized after they were annotated? Scale the boxes with them.',
        )
    return None


def find_image_damage(data: bytes, decoded: bool) -> Optional[str]:
    """Say why an image cannot be trusted; None when nothing is wrong.

    OpenCV fills what a cut-off JPEG lacks with grey and says nothing, so the end marker is looked
    for.

    Args:
        data (bytes): Content of the file.
        decoded (bool): Whether the decoder returned an image.
    """
    if not data:
        return 'the file is empty'
    if data[:2] == b'\xff\xd8':
        # The marker may also end a thumbnail in the head of the file: look behind the start of the
        # scan.
        if data.rfind(b'\xff\xd9') <= _start_of_scan(data):
            return 'the JPEG is truncated (no end marker)'
    elif data[:8] == b'\x89PNG\r\n\x1a\n' and data.rfind(b'IEND') < 0:
        return 'the PNG is truncated (no end chunk)'
    if decoded:
        return None
    head = data[:64]
    if all(byte in b'\t\n\r' or 32 <= byte < 127 for byte in head):
        return f'this is text, not an image: {head[:40].decode()!r}'
    return 'no decoder can read it as an image'


def check_num_classes(
    num_classes: Dict[str, int], classes: Sequence[str], file: str = 'configuration'
) -> List[Problem]:
    """Compare every ``num_classes`` of a model, by the name of its module, with the classes of a
    data set."""
    wrong = {name: number for name, number in num_classes.items() if number != len(classes)}
    if not wrong:
        return []
    found = ', '.join(f'{name} is {number}' for name, number in wrong.items())
    options = ' '.join(f'{name}={len(classes)}' for name in wrong)
    return [
        Problem(
            'error',
            file,
            f'{found}, but the data set has {len(classes)} classes ({_shortened(classes)}).',
            f'Set {options} (also on the command line: --cfg-options {options}), or name the '
            'classes the model is for in metainfo=dict(classes=...) of every data set.',
        )
    ]


def _check_images(entries: list, report: '_Report') -> List[dict]:
    if not entries:
        report.error('the file lists no image.', 'Name another annotation file.')
    for index, image in enumerate(entries):
        fault = _fault_of_image(image)
        if fault:
            report.error(
                f'images[{index}] {fault}.',
                "Every image needs 'id', 'file_name', and 'height' and 'width' in pixels.",
            )
            return []
    first, count = _first_duplicate(image['id'] for image in entries)
    if count:
        report.error(
            f'{count} image ids are used more than once, the first is {first!r}.',
            'Give each image an id of its own, and its annotations with it.',
        )
    first, count = _first_duplicate(image['file_name'] for image in entries)
    if count:
        report.warning(
            f'{count} files are listed as more than one image, the first is {first!r}.',
            'Merge the entries: the objects of one are background in the other.',
        )
    return entries


def _fault_of_image(image) -> Optional[str]:
    if not isinstance(image, dict):
        return f'is a {type(image).__name__}'
    missing = [key for key in ('id', 'file_name', 'height', 'width') if image.get(key) is None]
    if missing:
        return f'({image.get("file_name", "no file name")}) lacks {", ".join(missing)}'
    if not isinstance(image['file_name'], str):
        return f'has the file_name {image["file_name"]!r}'
    if not isinstance(image['id'], Hashable):
        return f'({image["file_name"]}) has the id {image["id"]!r}'
    sides = (image['height'], image['width'])
    if not all(isinstance(side, (int, float)) and 0 < side < np.inf for side in sides):
        return f'({image["file_name"]}) has the size {sides[1]!r} x {sides[0]!r}'
    return None


def _match_classes(categories: list, classes: Optional[Sequence[str]], report: '_Report'):
    """Class names, the category id of each (None: the file lacks it), and {category id: label}."""
    usable = [
        c
        for c in categories
        if isinstance(c, dict)
        and c.get('id') is not None
        and isinstance(c['id'], Hashable)
        and 'name' in c
    ]
    if len(usable) < len(categories) or not usable:
        report.error(
            f'{len(categories) - len(usable)} of {len(categories)} categories lack an id or a name.'
            if categories
            else 'the file lists no category.',
            "Every category needs 'id' and 'name'.",
        )
    ids = {}
    for category in usable:
        ids.setdefault(str(category['name']), []).append(category['id'])
    for what, (first, count) in dict(
        id=_first_duplicate(c['id'] for c in usable),
        name=_first_duplicate(str(c['name']) for c in usable),
    ).items():
        if count:
            report.error(
                f'{count} category {what}s are used more than once, the first is {first!r}.',
                'Merge or rename these categories.',
            )

    if classes is None:
        names = tuple(ids)
    else:
        names = (classes,) if isinstance(classes, str) else tuple(classes)
        first, count = _first_duplicate(names)
        if count:
            report.error(f'the class {first!r} is named more than once.', 'Name it once.')
    absent = [name for name in names if name not in ids]
    if absent and usable:
        none_matches = len(absent) == len(names)
        lower = {name.lower(): name for name in ids}
        hints = []
        for name in absent:
            for match in difflib.get_close_matches(str(name).lower(), lower, 1, 0.7):
                hints.append(f'{name!r} may mean {lower[match]!r}')
        found = f'asked for {_shortened(absent)}; the file has {_shortened(tuple(ids))}.'
        remedy = (
            'Give the names of the file in metainfo=dict(classes=(...)), spelled as there, or '
            'leave metainfo out to take them all.'
        )
        if hints:
            remedy = f'{remedy} {", ".join(hints)}.'
        if none_matches:
            report.error(
                f'none of the {len(names)} classes asked for is in the file, so nothing would be '
                f'learned: {found}',
                remedy,
            )
        else:
            report.warning(
                f'{len(absent)} of the {len(names)} classes asked for are not in the file: {found}',
                remedy,
            )
    category_ids = tuple(ids[name][0] if name in ids else None for name in names)
    return (
        names,
        category_ids,
        {cid: label for label, cid in enumerate(category_ids) if cid is not None},
    )


def _check_boxes(
    images: List[dict], annotations: List[dict], image_index: np.ndarray, report: '_Report'
) -> Tuple[np.ndarray, np.ndarray]:
    """Clipped xyxy boxes, shape (T, 4), and the verdict on each, shape (T,)."""
    total = len(annotations)
    xywh = np.full((total, 4), np.nan)
    # One conversion where all is well; box by box only when something is not.
    raw = [annotation.get('bbox') for annotation in annotations]
    try:
        xywh[:] = np.array(raw, dtype=np.float64).reshape(total, 4)
    except (TypeError, ValueError):
        for i, box in enumerate(raw):
            if isinstance(box, (list, tuple)) and len(box) == 4:
                try:
                    xywh[i] = np.array(box, dtype=np.float64)
                except (TypeError, ValueError):
                    pass
    finite = np.isfinite(xywh).all(axis=1)
    xywh[~finite] = np.nan

    hw = np.array(
        [(image['height'], image['width']) for image in images], dtype=np.float64
    ).reshape(-1, 2)
    limit = np.full((total, 4), np.inf)  # of an annotation without an image
    known = image_index >= 0
    limit[known] = hw[image_index[known]][:, [1, 0, 1, 0]]
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    clipped = np.clip(boxes, 0, limit)

    with np.errstate(invalid='ignore'):
        sides = xywh[:, 2:].min(axis=1)
        visible = (clipped[:, 2:] - clipped[:, :2]).min(axis=1)
        beyond = np.abs(boxes - clipped).max(axis=1)
        verdicts = np.select(
            [~finite, sides <= 0, visible <= 0, visible < 1, beyond > EDGE_TOLERANCE],
            [NOT_A_BOX, EMPTY, OUTSIDE, TOO_THIN, CLIPPED],
            SOUND,
        )
    for verdict, what, remedy in (
        (
            NOT_A_BOX,
            'are not four finite numbers; dropped',
            'bbox is [x, y, width, height] in pixels.',
        ),
        (EMPTY, 'have no width or no height; dropped', 'Correct or remove them.'),
        (OUTSIDE, 'are wholly outside their images; dropped', _box_hint(xywh, limit, finite)),
        (
            TOO_THIN,
            'show less than one pixel of width or height; dropped',
            _box_hint(xywh, limit, finite),
        ),
        (CLIPPED, 'reach beyond their images; clipped', _box_hint(xywh, limit, finite)),
    ):
        found = np.flatnonzero(verdicts == verdict)
        if len(found):
            first = _name(images, annotations, image_index, found[0])
            message = f'{len(found)} of {total} boxes {what}. The first: {first}.'
            report.warning(message, remedy)
    return clipped, verdicts


def _box_hint(xywh: np.ndarray, limit: np.ndarray, finite: np.ndarray) -> str:
    """Recognise the two usual mix-ups of box formats."""
    xywh, limit = xywh[finite], limit[finite]
    if not len(xywh):
        return 'Correct or remove them.'
    if xywh.max() <= 1.5 and np.median(limit) > 16:
        return 'All coordinates are about 1 or less: they look normalised, COCO wants pixels.'
    as_corners = (xywh[:, 2:] > xywh[:, :2]).all(axis=1) & (xywh[:, 2:] <= limit[:, 2:] + 1).all(
        axis=1
    )
    too_far = (xywh[:, :2] + xywh[:, 2:] > limit[:, 2:] + 1).any(axis=1)
    if too_far.mean() > 0.2 and as_corners.mean() > 0.95:
        return 'They look like [x1, y1, x2, y2]; COCO wants [x, y, width, height].'
    return 'Correct or remove them.'


def _check_references(checked: CheckedAnnotations, categories: list, report: '_Report') -> None:
    annotations, total = checked.annotations, len(checked.annotations)
    listed = {
        c['id']: 0 for c in categories if isinstance(c, dict) and isinstance(c.get('id'), Hashable)
    }
    unknown = _look_up(listed, annotations, 'category_id') < 0
    for found, key, remedy in (
        (
            np.flatnonzero(checked.image_index < 0),
            'image',
            'Add the images to the file, or remove the annotations.',
        ),
        (
            np.flatnonzero(unknown),
            'category',
            'Add the category to the file, or correct the annotations.',
        ),
    ):
        if len(found):
            first = annotations[found[0]]
            report.warning(
                f'{len(found)} of {total} annotations name {"an" if key == "image" else "a"} '
                f'{key} that the file does not list; ignored. The first: annotation '
                f'{first.get("id")!r}, {key}_id {first.get(f"{key}_id")!r}.',
                remedy,
            )
    first, count = _first_duplicate(repr(annotation.get('id')) for annotation in annotations)
    zero = sum(annotation.get('id') == 0 for annotation in annotations)
    if count or zero:
        report.warning(
            f'{count} annotation ids are missing or used more than once, the first is {first}.'
            if count
            else 'the annotation id 0 is used, which COCO evaluation takes for "not found".',
            'Number the annotations from 1; CheckedCocoMetric does so for itself, CocoMetric of '
            'mmdet goes wrong.',
        )
    # A box counts as listed twice when image, category and all four coordinates are the same.
    usable = np.flatnonzero(checked.usable)
    keys = np.column_stack(
        [checked.image_index[usable], checked.labels[usable], checked.boxes[usable]]
    )
    copies = _find_copies(keys)
    if len(copies):
        where = _name(checked.images, annotations, checked.image_index, usable[copies[0]])
        report.warning(
            f'{len(copies)} objects are listed more than once (same image, category and box). '
            f'The first: {where}.',
            'Remove the copies: the model would be taught to answer twice.',
        )


def _check_counts(checked: CheckedAnnotations, need_objects: bool, report: '_Report') -> None:
    if not checked.images or checked.errors:
        return
    crowd = np.array(
        [bool(a.get('iscrowd', 0) or a.get('ignore', 0)) for a in checked.annotations], dtype=bool
    )
    objects = checked.usable & ~crowd
    if not objects.any():
        message = (
            f'no usable object of the classes {_shortened(checked.classes)} in '
            f'{len(checked.images)} images and {len(checked.annotations)} annotations.'
        )
        if need_objects:
            report.error(
                message,
                'There is nothing to learn from it; set filter_cfg=dict(filter_empty_gt=False) to '
                'train on empty images all the same.',
            )
        else:
            report.warning(
                message, 'AP is undefined on such a set, and training on it learns background only.'
            )


def _find_copies(rows: np.ndarray) -> np.ndarray:
    """Indices of the rows that equal an earlier one, ascending; rows of shape (n, k)."""
    # Sorting rows is slow: only those whose weighted sums coincide are compared in full.
    sums = rows @ np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0, 13.0])[: rows.shape[1]]
    _, group, counts = np.unique(sums, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(counts[group] > 1)
    _, first = np.unique(rows[candidates], axis=0, return_index=True)
    return np.delete(candidates, first)


class _Report:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        self.file, self.problems = file, []

    def error(self, message: str, remedy: str) -> None:
        self.problems.append(Problem('error', self.file, message, remedy))

    def warning(self, message: str, remedy: str) -> None:
        self.problems.append(Problem('warning', self.file, message, remedy))


def _start_of_scan(data: bytes) -> int:
    """Position of the first start-of-scan marker of a JPEG; 0 when its segments do not lead
    there."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return at
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return 0


def _look_up(positions: Dict, annotations: List[dict], key: str) -> np.ndarray:
    """``positions[annotation[key]]`` of each annotation, -1 where there is none; shape (T,)."""
    try:
        found = [positions.get(annotation.get(key), -1) for annotation in annotations]
    except TypeError:  # a list or an object in the place of an id
        found = [
            positions.get(annotation.get(key), -1)
            if isinstance(annotation.get(key), Hashable)
            else -1
            for annotation in annotations
        ]
    return np.array(found, dtype=np.int64)


def _first_duplicate(values: Iterable) -> Tuple[object, int]:
    """The first value that occurs more than once, and how many such values there are."""
    repeated = [value for value, count in Counter(values).items() if count > 1]
    return (repeated[0], len(repeated)) if repeated else (None, 0)


def _name(images, annotations, image_index, index: int) -> str:
    annotation = annotations[index]
    image = images[image_index[index]]['file_name'] if image_index[index] >= 0 else 'no image'
    return f'annotation {annotation.get("id")!r} of {image}, bbox {annotation.get("bbox")!r}'


def _shortened(names: Sequence[str], most: int = 20) -> str:
    rest = len(names) - most
    shown = chain(map(repr, names[:most]), [f'and {rest} more'] if rest > 0 else [])
    return ', '.join(shown) or 'nothing'


def _missing_file(path: str) -> str:
    folder = osp.dirname(path) or '.'
    if not osp.isdir(folder):
        while folder and not osp.isdir(folder):
            folder = osp.dirname(folder)
        return (
            f'The annotation file {path} does not exist; of its path, only {folder or "nothing"} '
            'exists. Set data_root and ann_file.'
        )
    from glob import escape, glob

    near = sorted(osp.basename(file) for file in glob(osp.join(escape(folder), '*.json')))
    return (
        f'The annotation file {path} does not exist; JSON files in its folder: '
        f'{_shortened(near)}. Set ann_file.'
    )
