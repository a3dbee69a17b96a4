# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Digits in scenes: a detection data set that a fresh machine builds for itself in seconds.

Real handwritten digits (scikit-learn's copy of the UCI digits, 8 x 8 pixels, ten classes) are
blended onto photographs (scikit-learn's two sample pictures, and any the user names). Every scene
is drawn from a random generator of its own, seeded by (seed, split, index), so a data set is the
same byte for byte wherever the same OpenCV writes it, and the first hundred scenes of a large set
are those of a small one. Training and validation scenes never share a handwriting sample.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from mmdet.registry import DATASETS
from mmengine.dist import barrier, is_main_process
from tqdm import tqdm

from .coco import CheckedCocoDataset

CLASSES = tuple(str(digit) for digit in range(10))
SPLITS = ('train', 'val')
# Raise it whenever the same options would draw other pixels: old folders are then reported, not
# reused.
RECIPE = 1
# The last quarter of each class is kept for validation. scikit-learn stores the samples writer by
# writer, so a cut keeps most writers on one side, which a random choice would not.
VAL_HANDWRITING = 0.25
# px, of both sides of a box: a smaller digit is noise after the first strides of a network
MIN_SIDE = 16
GAP = 2  # px between two boxes
OPTIONS_FILE = 'digits.json'
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


@dataclass(frozen=True)
class DigitsOptions:
    """What a digits-in-scenes data set holds.

    Args:
        num_train (int): Number of training scenes. Defaults to 1000.
        num_val (int): Number of validation scenes. Defaults to 200.
        image_hw (tuple[int, int]): Height and width of a scene in pixels. Defaults to (256, 256).
        objects (tuple[int, int]): Fewest and most digits in a scene, both inclusive. Fewer are
            drawn where no room is left. Defaults to (2, 8).
        digit_size (tuple[float, float]): Range of the longer side of a digit in pixels, drawn
            log-uniformly. A slim digit is enlarged beyond it until its shorter side has 16 pixels.
            Defaults to (24, 96).
        photographs (tuple[str]): Picture files, or folders of them, used beside scikit-learn's two.
            Defaults to ().
        seed (int): Seed of the whole set, 0 or greater. Defaults to 0.
        jpeg_quality (int): In [1, 100]. Defaults to 90.

    Raises:
        ValueError: When a value is out of its range.
    """

    num_train: int = 1000
    num_val: int = 200
    image_hw: Tuple[int, int] = (256, 256)
    objects: Tuple[int, int] = (2, 8)
    digit_size: Tuple[float, float] = (24, 96)
    photographs: Tuple[str, ...] = ()
    seed: int = 0
    jpeg_quality: int = 90

    def __post_init__(self):
        # Configs and command lines hand over lists.
        for name in ('image_hw', 'objects', 'digit_size'):
            pair = tuple(getattr(self, name))
            if len(pair) != 2:
                raise ValueError(f'{name} must hold two numbers, got {pair}.')
            object.__setattr__(self, name, pair)
        photographs = self.photographs
        photographs = [photographs] if isinstance(photographs, (str, Path)) else photographs
        object.__setattr__(self, 'photographs', tuple(str(path) for path in photographs))

        for name in ('num_train', 'num_val'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}.')
        if min(self.image_hw) < 32:
            raise ValueError(f'image_hw must be at least 32 x 32 pixels, got {self.image_hw}.')
        if not 0 <= self.objects[0] <= self.objects[1]:
            raise ValueError(
                f'objects must be (fewest, most) with 0 <= fewest <= most, got {self.objects}.'
            )
        low, high = self.digit_size
        if not MIN_SIDE <= low <= high <= min(self.image_hw):
            raise ValueError(
                f'digit_size must be (smallest, largest) with {MIN_SIDE} <= smallest <= largest '
                f'<= {min(self.image_hw)} (the shorter side of image_hw), got {self.digit_size}.'
            )
        if self.seed < 0:
            raise ValueError(f'seed must be 0 or greater, got {self.seed}.')
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f'jpeg_quality must be in [1, 100], got {self.jpeg_quality}.')

    def count(self, split: str) -> int:
        return {'train': self.num_train, 'val': self.num_val}[split]


@DATASETS.register_module()
class DigitsInScenes(CheckedCocoDataset):
    """The digits-in-scenes data set; it is built in ``data_root`` when it is not there yet.

    Args:
        data_root (str): Folder of the data set. Defaults to 'data/digits'.
        split (str): 'train' or 'val'. Defaults to 'train'.
        options (dict): Arguments of :class:`DigitsOptions`. Both splits must be given the same.
            Defaults to an empty dict.
        **kwargs: Arguments of :class:`CheckedCocoDataset`.

    Raises:
        FileExistsError: When ``data_root`` holds something else than the data set of these options.
    """

    METAINFO = dict(
        classes=CLASSES,
        palette=[
            (230, 60, 60),
            (60, 170, 60),
            (70, 110, 240),
            (240, 160, 30),
            (160, 70, 210),
            (30, 180, 190),
            (230, 80, 180),
            (150, 150, 40),
            (140, 90, 50),
            (110, 110, 130),
        ],
    )

    def __init__(
        self,
        data_root: str = 'data/digits',
        split: str = 'train',
        options: Optional[dict] = None,
        **kwargs,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'split must be one of {SPLITS}, got {split!r}.')
        self.options = DigitsOptions(**(options or {}))
        kwargs.setdefault('ann_file', f'annotations/{split}.json')
        kwargs.setdefault('data_prefix', dict(img=f'{split}/'))
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> List[dict]:
        # In a distributed run one process builds, the others wait for the finished folder.
        try:
            if is_main_process():
                make_digits(self.data_root, self.options)
        finally:
            barrier()
        return super().load_data_list()


def make_digits(
    out_dir: Union[str, Path], options: Optional[DigitsOptions] = None, progress: bool = True
) -> Path:
    """Build the data set, unless the folder already holds it.

    The folder appears in one step when everything is written: an interrupted call leaves no half of
    a data set.

    Args:
        out_dir (str | Path): Folder that will hold ``train/``, ``val/`` (JPEG),
            ``annotations/train.json`` and ``annotations/val.json`` (COCO format; category ids are
            the digit + 1), and ``digits.json`` (the options).
        options (DigitsOptions, optional): What to draw. Defaults to ``DigitsOptions()``.
        progress (bool): Whether to show a progress bar. Defaults to True.

    Returns:
        Path: ``out_dir``.

    Raises:
        FileExistsError: When ``out_dir`` holds anything but this data set.
        FileNotFoundError: When a photograph is missing.
        ValueError: When a photograph cannot be read.
    """
    out_dir = Path(out_dir)
    options = DigitsOptions() if options is None else options
    if out_dir.exists():
        if _holds(out_dir, options):
            return out_dir
        if not out_dir.is_dir() or any(out_dir.iterdir()):
            _refuse(out_dir, options)

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f'.{out_dir.name}-', suffix='.part', dir=out_dir.parent))
    part.chmod(0o755)  # mkdtemp makes it private
    try:
        _write_data_set(part, options, progress)
        try:
            part.replace(out_dir)
        except OSError as error:
            # Another process finished first.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not _holds(out_dir, options):
                _refuse(out_dir, options)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out_dir


def _write_data_set(folder: Path, options: DigitsOptions, progress: bool) -> None:
    handwriting = load_handwriting()
    photographs = find_photographs(options.photographs)
    (folder / 'annotations').mkdir()
    total = options.num_train + options.num_val
    # A log file wants a line now and then, not ten a second.
    pace = 0.1 if sys.stderr.isatty() else 5.0
    bar = tqdm(
        total=total,
        desc='digits in scenes',
        unit='scene',
        mininterval=pace,
        disable=not progress,
    )
    with bar:
        for split in SPLITS:
            (folder / split).mkdir()
            images, annotations = [], []
            for index in range(options.count(split)):
                rng = np.random.default_rng([options.seed, SPLITS.index(split), index])
                scene, labels, boxes = draw_scene(rng, handwriting[split], photographs, options)
                file_name = f'{index + 1:06d}.jpg'
                # OpenCV's imwrite cannot handle every path; encoding and writing can.
                _, data = cv2.imencode(
                    '.jpg', scene, [cv2.IMWRITE_JPEG_QUALITY, options.jpeg_quality]
                )
                (folder / split / file_name).write_bytes(data.tobytes())
                height, width = scene.shape[:2]
                images.append(dict(id=index + 1, file_name=file_name, height=height, width=width))
                for label, (x, y, w, h) in zip(labels, boxes):
                    annotations.append(
                        dict(
                            id=len(annotations) + 1,
                            image_id=index + 1,
                            category_id=label + 1,
                            bbox=[x, y, w, h],
                            area=w * h,
                            iscrowd=0,
                        )
                    )
                bar.update()
            categories = [
                dict(id=digit + 1, name=name, supercategory='digit')
                for digit, name in enumerate(CLASSES)
            ]
            content = dict(
                info=dict(description=f'Digits in scenes, {split}'),
                licenses=[],
                images=images,
                annotations=annotations,
                categories=categories,
            )
            (folder / 'annotations' / f'{split}.json').write_text(json.dumps(content))
    (folder / OPTIONS_FILE).write_text(json.dumps(_described(options), indent=1))


def draw_scene(
    rng: np.random.Generator,
    handwriting: Tuple[np.ndarray, np.ndarray],
    photographs: Sequence[Path],
    options: DigitsOptions,
) -> Tuple[np.ndarray, List[int], List[Tuple[int, int, int, int]]]:
    """Draw one scene.

    Args:
        rng (np.random.Generator): Source of every random choice.
        handwriting (tuple[np.ndarray, np.ndarray]): Samples, shape (n, 8, 8), each in [0, 1], and
            their digits, shape (n,).
        photographs (Sequence[Path]): Backgrounds to choose from.
        options (DigitsOptions): Sizes and counts.

    Returns:
        tuple: scene (np.ndarray): BGR, uint8, shape (h, w, 3). labels (list[int]): digit of each
        object. boxes (list[tuple[int, int, int, int]]): (x, y, w, h) in pixels; all ink of an
        object is inside its box and touches the four sides; two boxes are at least two pixels
        apart.
    """
    photograph = read_photograph(photographs[rng.integers(len(photographs))])
    scene = draw_background(rng, photograph, options.image_hw)
    samples, digits = handwriting
    low, high = np.log(options.digit_size)
    count = rng.integers(options.objects[0], options.objects[1] + 1)
    # Large ones first: a small one still fits into what is left, the other way round often not.
    sizes = np.sort(np.exp(rng.uniform(low, high, count)))[::-1]

    labels, boxes = [], []
    for size in sizes:
        index = rng.integers(len(samples))
        ink = draw_digit(rng, samples[index], size)
        corner = _find_room(rng, ink.shape, boxes, options.image_hw)
        if corner is None:
            continue
        (x, y), (h, w) = corner, ink.shape
        patch = scene[y : y + h, x : x + w]
        colour = choose_colour(rng, patch)
        patch[:] = np.rint(patch + (colour - patch) * ink[..., None])
        labels.append(int(digits[index]))
        boxes.append((x, y, w, h))
    return scene, labels, boxes


def draw_background(
    rng: np.random.Generator, photograph: np.ndarray, image_hw: Tuple[int, int]
) -> np.ndarray:
    """A random part of a photograph, randomly flipped and coloured; BGR, uint8, shape (*image_hw,
    3)."""
    (height, width), (ph, pw) = image_hw, photograph.shape[:2]
    # The largest window of the scene's aspect, then a random part of it.
    zoom = min(ph / height, pw / width) * rng.uniform(0.35, 1.0)
    ch, cw = max(1, int(height * zoom)), max(1, int(width * zoom))
    y, x = rng.integers(ph - ch + 1), rng.integers(pw - cw + 1)
    crop = photograph[y : y + ch, x : x + cw]
    scene = cv2.resize(
        crop, (width, height), interpolation=cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    )
    if rng.random() < 0.5:
        scene = cv2.flip(scene, 1)
    # Contrast and brightness for the whole scene, a gain for each channel.
    contrast, brightness = rng.uniform(0.5, 1.0), rng.uniform(-30, 30)
    gain = rng.uniform(0.85, 1.15, 3)
    values = np.arange(256)[:, None]
    table = ((values - 128) * contrast + 128 + brightness) * gain
    return cv2.LUT(scene, np.clip(np.rint(table), 0, 255).astype(np.uint8).reshape(1, 256, 3))


def draw_digit(rng: np.random.Generator, sample: np.ndarray, size: float) -> np.ndarray:
    """Enlarge a handwriting sample smoothly, slightly rotated, slanted and stretched.

    Args:
        rng (np.random.Generator): Source of the distortion.
        sample (np.ndarray): Ink of a digit in [0, 1], shape (8, 8).
        size (float): Wanted longer side in pixels.

    Returns:
        np.ndarray: Opacity of the ink in [0, 1], shape (h, w), cropped to the ink: each border row
        and column holds visible ink (opacity 1/8 or more), and min(h, w) >= 16.
    """
    angle, slant = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.2, 0.2)
    stretch = rng.uniform(0.85, 1.2)
    opacity = rng.uniform(0.85, 1.0)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = rotation @ np.array([[stretch, slant], [0.0, 1.0]])

    # Extent of the ink under the distortion, in sample pixels, gives the scale to start from.
    points = np.argwhere(sample > 0.4)[:, ::-1] - 3.5  # (x, y) from the centre
    extent = np.ptp(points @ shape.T, axis=0) + 1.0
    scale = max(size / extent.max(), MIN_SIDE / extent.min())
    while True:
        ink = _render(sample, shape * scale, scale)
        if min(ink.shape) >= MIN_SIDE:
            return ink * opacity
        scale *= 1.05 * MIN_SIDE / max(1, min(ink.shape))


def _render(sample: np.ndarray, matrix: np.ndarray, scale: float) -> np.ndarray:
    padded = cv2.copyMakeBorder(
        sample.astype(np.float32), 2, 2, 2, 2, cv2.BORDER_CONSTANT
    )  # (12, 12)
    reach = np.abs(matrix).sum(axis=1) * 5.5
    width, height = np.ceil(2 * reach).astype(int) + 2
    # Sample centre (5.5, 5.5) to canvas centre.
    affine = np.hstack(
        [matrix, np.array([[(width - 1) / 2], [(height - 1) / 2]]) - matrix @ np.full((2, 1), 5.5)]
    )
    field = cv2.warpAffine(padded, affine, (int(width), int(height)), flags=cv2.INTER_CUBIC)
    # Cut the smooth field where the pen's edge was; the edge stays about two pixels soft at any
    # size.
    softness = np.clip(1.0 / scale, 0.08, 0.25)
    ink = np.clip((field - 0.4) / (2 * softness) + 0.5, 0, 1)
    rows, columns = (
        np.flatnonzero(ink.max(axis=1) >= 0.125),
        np.flatnonzero(ink.max(axis=0) >= 0.125),
    )
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def choose_colour(rng: np.random.Generator, patch: np.ndarray) -> np.ndarray:
    """A random BGR colour, float, shape (3,), that a person can tell from the patch (uint8, BGR)
    behind it."""
    luma = np.array([0.114, 0.587, 0.299])
    grey = patch.reshape(-1, 3) @ luma
    # Distance to nine tenths of the pixels, not to their mean: a textured patch asks for a clearer
    # colour.
    dark, light = np.percentile(grey, (10, 90))
    for _ in range(10):
        colour = rng.uniform(0, 255, 3)
        value = colour @ luma
        if value > light + 60 or value < dark - 60:
            return colour
    return np.full(3, 255.0 if light < 255 - dark else 0.0)


def load_handwriting() -> dict:
    """scikit-learn's digits by split: {'train' | 'val': (samples (n, 8, 8) in [0, 1], digits
    (n,))}."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'The handwritten digits come with scikit-learn: pip install scikit-learn'
        ) from error
    data = load_digits()
    samples, digits = (data.images / 16).astype(np.float32), data.target
    is_val = np.zeros(len(digits), dtype=bool)
    for digit in range(10):
        index = np.flatnonzero(digits == digit)
        is_val[index[int(len(index) * (1 - VAL_HANDWRITING)) :]] = True
    return dict(train=(samples[~is_val], digits[~is_val]), val=(samples[is_val], digits[is_val]))


def find_photographs(named: Sequence[str] = ()) -> List[Path]:
    """scikit-learn's two sample photographs, then the named files and the pictures in the named
    folders, sorted.

    Raises:
        FileNotFoundError: When a named path is missing, or a named folder holds no picture.
    """
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            'The photographs come with scikit-learn: pip install scikit-learn'
        ) from error
    paths = sorted((Path(sklearn.datasets.__file__).parent / 'images').glob('*.jpg'))
    for path in map(Path, named):
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES
            )
            if not inside:
                raise FileNotFoundError(
                    f'No picture ({", ".join(IMAGE_SUFFIXES)}) in the folder {path}.'
                )
            paths.extend(inside)
        elif path.is_file():
            paths.append(path)
        else:
            raise FileNotFoundError(
                f'The photograph {path} does not exist; name a picture or a folder of them.'
            )
    if not paths:
        raise FileNotFoundError(
            'scikit-learn has no sample photographs here; name some of your own.'
        )
    return paths


@lru_cache(maxsize=64)
def read_photograph(path: Path) -> np.ndarray:
    """A photograph, BGR, uint8, its longer side at most 1024 pixels."""
    photograph = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    if photograph is None:
        raise ValueError(
            f'The photograph {path} is not a picture that OpenCV can read; leave it out.'
        )
    shrink = 1024 / max(photograph.shape[:2])
    if shrink < 1:
        photograph = cv2.resize(
            photograph, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA
        )
    return photograph


def _find_room(rng, ink_hw, boxes, image_hw) -> Optional[Tuple[int, int]]:
    """Top-left corner (x, y) for a box of ink_hw that stays clear of the other boxes; None after
    fifty tries."""
    (h, w), (height, width) = ink_hw, image_hw
    if h > height or w > width:
        return None
    taken = np.array(boxes, dtype=int).reshape(-1, 4)
    x = rng.integers(0, width - w + 1, 50)[:, None]
    y = rng.integers(0, height - h + 1, 50)[:, None]
    clear = (
        (x >= taken[:, 0] + taken[:, 2] + GAP)
        | (x + w + GAP <= taken[:, 0])
        | (y >= taken[:, 1] + taken[:, 3] + GAP)
        | (y + h + GAP <= taken[:, 1])
    ).all(axis=1)
    found = np.flatnonzero(clear)
    return (int(x[found[0], 0]), int(y[found[0], 0])) if len(found) else None


def _described(options: DigitsOptions) -> dict:
    """The options as they come back from JSON, with all else that decides the pixels."""
    described = dict(recipe=RECIPE, **asdict(options))
    # A photograph counts by its name and size: reading them all would make the second call cost
    # something.
    named = find_photographs(options.photographs)[len(find_photographs()) :]
    described['photographs'] = [[path.name, path.stat().st_size] for path in named]
    return json.loads(json.dumps(described))


def _holds(folder: Path, options: DigitsOptions) -> bool:
    try:
        stored = json.loads((folder / OPTIONS_FILE).read_text())
    except (OSError, ValueError):
        return False
    return stored == _described(options)


def _refuse(folder: Path, options: DigitsOptions) -> None:
    try:
        stored = json.loads((folder / OPTIONS_FILE).read_text())
    except (OSError, ValueError):
        what = 'holds something else than digits in scenes'
    else:
        wanted = _described(options)
        differing = sorted(key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key))
        what = 'holds digits in scenes made with other options: ' + ', '.join(
            f'{key} is {stored.get(key)}, asked for {wanted.get(key)}' for key in differing
        )
    raise FileExistsError(
        f'{os.path.abspath(folder)} {what}. Nothing was changed. Choose another folder (--out of '
        'tools/make_digits.py, data_root in a config), or remove this one yourself.'
    )
