# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Boxes from images. Needs NumPy, Pillow and what runs the file; neither PyTorch nor mmdet."""

import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from .metadata import DIVISOR, check_score_threshold
from .runners import open_runner

Image = Union[np.ndarray, str, os.PathLike]
# Images that go through a graph of any batch at once: more are hardly faster, and need memory.
MAX_BATCH = 16
IMAGES = 'an image is an array, uint8, (H, W, 3), BGR, or a file; several are a list of them'
COLORS = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (0, 160, 160), (240, 50, 230), (128, 128, 0), (170, 110, 40), (0, 0, 128),
)  # fmt: skip


class Detections(NamedTuple):
    """What was found in an image.

    Attributes:
        boxes (ndarray): Shape (K, 4), float32, ordered (x1, y1, x2, y2), in pixels of the image.
        scores (ndarray): Shape (K,), float32, falling.
        labels (ndarray): Shape (K,), int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detector:
    """Boxes from images, by a file that ``tools/export.py`` wrote.

    Images are prepared as the config that was exported does it.

    Args:
        path (str | PathLike): The file: .onnx, OpenVINO's .xml, or TensorRT's .engine.
        score_threshold (float, optional): In [0, 1]. Detections below it are left out; None: the
            file's.
        hw (tuple[int, int], optional): Size that images are resized to, of a file of dynamic size.
        threads (int, optional): Threads of the CPU; None lets the backend choose.
        backend (str, optional): 'onnxruntime', 'openvino' or 'tensorrt', see :func:`open_runner`.
            Defaults to None: by the ending of the file.
        options: Those of the backend: ``providers`` of ONNX Runtime, ``device`` of OpenVINO, ...

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The backend is missing.
        TypeError: ``path`` is something else.
        ValueError: No file of that backend, or none that ``tools/export.py`` of this version wrote;
            ``hw`` for a file of static size, or a size that it cannot take; a threshold that is
            no score.
    """

    def __init__(
        self,
        path: Union[str, os.PathLike],
        score_threshold: Optional[float] = None,
        hw: Optional[Tuple[int, int]] = None,
        threads: Optional[int] = None,
        backend: Optional[str] = None,
        **options,
    ) -> None:
        self.path = path
        self.runner = open_runner(path, backend, threads, **options)
        self.metadata = self.runner.metadata
        self.classes = self.metadata.classes
        if hw is not None and tuple(hw) != self.metadata.hw and not self.metadata.dynamic_size:
            raise ValueError(
                f'{path} takes images of {_size(self.metadata.hw)}, not {_size(hw)}: export with '
                '--dynamic-size, or with --hw'
            )
        self.hw = tuple(hw or self.metadata.hw)
        if min(self.hw) < 1 or not self.metadata.pad and any(side % DIVISOR for side in self.hw):
            raise ValueError(
                f'{path} takes height and width that are multiples of {DIVISOR}, not '
                f'{_size(self.hw)}; exported with --pad, it takes any'
            )
        self.metadata.refuse_few_cells(self.hw)
        if score_threshold is None:
            score_threshold = self.metadata.score_threshold
        self.score_threshold = check_score_threshold(score_threshold)

    def __repr__(self) -> str:
        meta, names = self.metadata, self.classes
        size = 'any size' if meta.resize else _size(self.hw)
        classes = 'classes without names'
        if names:
            more = ', ...' if len(names) > 3 else ''
            classes = f'{len(names)} classes: {", ".join(names[:3])}{more}'
        return (
            f'{type(self).__name__}({str(self.path)!r}, {self.runner.name}, {meta.precision}, '
            f'images: {meta.batch_size or "any number"} x {size}, {classes})'
        )

    def __call__(
        self, images: Union[Image, Sequence[Image]]
    ) -> Union[Detections, List[Detections]]:
        """Detect objects.

        Args:
            images (ndarray | str | PathLike | Sequence): An image, uint8, shape (H, W, 3), ordered
                BGR as OpenCV reads it, or a file, or several of them.

        Returns:
            Detections | list[Detections]: Of the image, or of each.

        Raises:
            IsADirectoryError: A folder.
            TypeError: An array of another type or shape, or something else.
            ValueError: A file that is no image.
        """
        if isinstance(images, (np.ndarray, str, os.PathLike)):
            return self([images])[0]
        if not isinstance(images, Sequence):
            raise TypeError(f'{IMAGES}; got {type(images).__name__}')
        return [found for batch in self._batches(images) for found in self._run(batch)]

    def preprocess(self, image: np.ndarray) -> Tuple[np.ndarray, Tuple[float, float]]:
        """An image as the graph takes it, without the batch dimension.

        Returns:
            tuple[ndarray, tuple[float, float]]: The image, and how many times as (wide, high) it
            is.
        """
        meta = self.metadata
        scale = (1.0, 1.0)
        if not meta.resize:
            image, scale = resize(image, self.hw, meta.keep_ratio, meta.resize_filter)
            if meta.keep_ratio:
                height, width = image.shape[:2]
                padding = ((0, self.hw[0] - height), (0, self.hw[1] - width), (0, 0))
                image = np.pad(image, padding, constant_values=meta.pad_value)
        if meta.pixels == 'normalized':
            if meta.network_channels == 'rgb':
                image = image[..., ::-1]
            image = (image - np.float32(meta.mean)) * (1 / np.float32(meta.std))
            if meta.channels != meta.network_channels:
                image = image[..., ::-1]
        elif meta.channels == 'rgb':
            image = image[..., ::-1]
        if meta.layout == 'nchw':
            image = image.transpose(2, 0, 1)
        dtype = np.uint8 if meta.pixels == 'uint8' else np.float32
        return np.ascontiguousarray(image, dtype), scale

    def _batches(self, images: Sequence[Image]) -> Iterator[List[np.ndarray]]:
        """Images that go through the graph together: as many as it takes, all of one size."""
        size = self.metadata.batch_size or self.runner.largest_batch or MAX_BATCH
        for i in range(0, len(images), size):
            batch = [read_image(image) for image in images[i : i + size]]
            if self.metadata.resize and len({image.shape for image in batch}) > 1:
                yield from ([image] for image in batch)
            else:
                yield batch

    def feeds(
        self, images: Sequence[Image]
    ) -> Tuple[Dict[str, np.ndarray], List[Tuple[float, float]]]:
        """What the graph takes for some images, no more than go through it together.

        Returns:
            tuple[dict[str, ndarray], list[tuple[float, float]]]: Inputs by name; where there are
            fewer images than go through it, the last one comes again. How many times as (wide,
            high) as each image the boxes will be.
        """
        images = [read_image(image) for image in images]
        least = self.metadata.batch_size or self.runner.smallest_batch
        missing = max(0, least - len(images))
        inputs, scales = zip(*(self.preprocess(image) for image in images))
        feeds = dict(images=np.stack(inputs + inputs[-1:] * missing))
        if self.metadata.original_size:
            sizes = [image.shape[:2] for image in images]
            feeds['original_hw'] = np.array(sizes + sizes[-1:] * missing, np.float32)
            scales = [(1.0, 1.0)] * len(images)
        return feeds, list(scales)

    def _run(self, images: List[np.ndarray]) -> List[Detections]:
        feeds, scales = self.feeds(images)
        outputs = self.runner.run(feeds)
        return [
            self._finish(*found, scale, image.shape[:2])
            for *found, scale, image in zip(*outputs, scales, images)
        ]

    def _finish(self, boxes, scores, labels, scale, hw) -> Detections:
        """Boxes in pixels of the image, without those that are not worth showing."""
        # a score of 0 is none: the graph has to return equally many for every image
        keep = (scores >= self.score_threshold) & (scores > 0)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        if self.metadata.nms_iou is not None:
            kept = suppress(boxes, labels, self.metadata.nms_iou)[: self.metadata.max_per_img]
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        boxes = boxes / np.float32(scale * 2)
        return Detections(boxes.clip(0, np.float32(hw[::-1] * 2)), scores, labels)

    def draw(self, image: Image, detections: Optional[Detections] = None) -> np.ndarray:
        """The image with boxes, class names and scores.

        Args:
            image (ndarray | str | PathLike): As for calling the detector.
            detections (Detections, optional): What to draw; None detects first.

        Returns:
            ndarray: New image, uint8, shape (H, W, 3), BGR.
        """
        from PIL import Image as PillowImage
        from PIL import ImageDraw

        image = read_image(image)
        found = self(image) if detections is None else detections
        canvas = PillowImage.fromarray(np.ascontiguousarray(image[..., ::-1]))
        pen = ImageDraw.Draw(canvas)
        longer = max(image.shape[:2])
        line, font = max(1, round(longer / 400)), load_font(max(12, round(longer / 70)))
        # the best on top
        for box, score, label in list(zip(*found))[::-1]:
            name = self.classes[label] if self.classes else str(label)
            color, corner = COLORS[label % len(COLORS)], (float(box[0]), float(box[1]))
            pen.rectangle([float(side) for side in box], outline=color, width=line)
            text = f'{name} {score:.2f}'
            over = pen.textbbox(corner, text, font)[2] - canvas.width
            corner = (max(0.0, corner[0] - max(0.0, over)), corner[1])  # none is cut off
            pen.rectangle(pen.textbbox(corner, text, font), fill=color)
            pen.text(corner, text, fill='white', font=font)
        return np.ascontiguousarray(np.asarray(canvas)[..., ::-1])


def read_image(image: Image) -> np.ndarray:
    """An array as it is, after a check, or a file as BGR."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise TypeError(
                'an image must be uint8 of shape (H, W, 3), ordered BGR, several of them a list; '
                f'got {image.dtype} of shape {image.shape}'
            )
        return image
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(f'{IMAGES}; got {type(image).__name__} in the list')
    if os.path.isdir(image):
        raise IsADirectoryError(f'{image} is a folder: give its files, as a list')
    from PIL import Image as PillowImage
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with PillowImage.open(image) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith('I'):  # 16 bits: the upper eight, as OpenCV reads it
                upright = PillowImage.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            pixels = np.asarray(upright.convert('RGB'))
    except FileNotFoundError:
        raise FileNotFoundError(f'{image}: no such file') from None
    except (UnidentifiedImageError, PillowImage.DecompressionBombError, OSError) as error:
        raise ValueError(f'{image} cannot be read as an image: {error}') from None
    return np.ascontiguousarray(pixels[..., ::-1])


def load_font(size: int):
    """Pillow's font, in pixels; before Pillow 10.1 it has one size."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # an older Pillow, or one that was built without FreeType
        return ImageFont.load_default()


def resize(
    image: np.ndarray, hw: Tuple[int, int], keep_ratio: bool, resize_filter: str
) -> Tuple[np.ndarray, Tuple[float, float]]:
    """The image in another size, as mmdet's ``Resize`` makes it, and its scale in x and y.

    With ``keep_ratio`` the largest image that fits into ``hw``.
    """
    height, width = image.shape[:2]
    new_h, new_w = hw
    if keep_ratio:
        # NOTE: mmdet would turn `hw` for images that are higher than wide; a graph's cannot turn
        ratio = min(hw[0] / height, hw[1] / width)
        # as mmcv rounds
        new_w, new_h = (max(1, int(side * ratio + 0.5)) for side in (width, height))
    if (new_h, new_w) != (height, width):
        if resize_filter == 'pillow':
            from PIL import Image as PillowImage

            image = np.asarray(
                PillowImage.fromarray(image).resize((new_w, new_h), PillowImage.BILINEAR)
            )
        else:
            cv2 = _import_cv2()
            image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    return image, (new_w / width, new_h / height)


def suppress(boxes: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """Indices that non-maximum suppression keeps, class by class; scores are falling.

    Args:
        boxes (ndarray): Shape (K, 4), ordered (x1, y1, x2, y2), best first.
        labels (ndarray): Shape (K,).
        iou (float): Boxes of a class that overlap a better one by more than this go.

    Returns:
        ndarray: Indices, rising.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive, kept = np.ones(len(boxes), bool), []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        rest = np.flatnonzero(alive[i + 1 :] & (labels[i + 1 :] == labels[i])) + i + 1
        lower = np.maximum(boxes[i, :2], boxes[rest, :2])
        upper = np.minimum(boxes[i, 2:], boxes[rest, 2:])
        overlap = (upper - lower).clip(0).prod(-1)
        union = areas[i] + areas[rest] - overlap
        alive[rest[overlap > iou * union]] = False
    return np.array(kept, np.int64)


def _import_cv2():
    try:
        import cv2
    except ImportError:
        raise ImportError(
            'cv2 is missing, which the images of this model are resized with: '
            'pip install opencv-python-headless'
        ) from None
    return cv2


def _size(hw) -> str:
    return ' x '.join(map(str, hw))
