# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What an exported file says about itself. Needs the standard library alone."""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Optional, Tuple

KEY = 'deim_mmdet'
# Rises when a reader of older files would misunderstand newer ones, or the other way round.
FORMAT = 1
# What the strides of all detectors divide, and so the sides of their images.
DIVISOR = 32


def check_score_threshold(value: float) -> float:
    """The same.

    Raises:
        ValueError: It is no score.
    """
    if not 0 <= value <= 1:
        raise ValueError(f'score_threshold must be in [0, 1], as scores are, got {value}')
    return value


@dataclass(frozen=True)
class Metadata:
    """Everything needed to use an exported model without its config.

    Attributes:
        version (str): Version of deim_mmdet that wrote the file.
        model (str): Name of the config.
        classes (tuple[str], optional): Names of the classes.
        precision (str): 'float32', 'float16' or 'int8'.
        hw (tuple[int, int]): Height and width that the model was trained for; of a model of static
            size, the only ones.
        batch_size (int, optional): Images per run; None for any number.
        dynamic_size (bool): Whether height and width may be other multiples of 32.
        pixels, layout, channels, resize, pad, original_size: See :class:`InputFormat`.
        mean, std (tuple[float]): Normalisation, in the channel order ``network_channels``.
        network_channels (str): 'rgb' or 'bgr'.
        keep_ratio (bool): Whether images keep their aspect when they are resized, and are padded at
            the right and at the bottom.
        resize_filter (str): 'pillow' (averages when it makes images smaller) or 'cv2', bilinear.
        pad_value (int): Grey of the padding, in [0, 255].
        max_per_img (int): Detections per image.
        score_threshold (float): Below it nothing is worth showing.
        nms_iou (float, optional): The results are candidates: of two of a class that overlap more,
            the one of the lower score has to go. None: they are final.
        num_queries (int): Queries that are selected among the cells of all levels; 0 where they are
            learnt, or of a model of static size.
        strides (tuple[int]): Sides of the cells of each level, in pixels, where queries are
            selected.
    """

    version: str
    model: str
    classes: Optional[Tuple[str, ...]]
    precision: str
    hw: Tuple[int, int]
    batch_size: Optional[int]
    dynamic_size: bool
    pixels: str
    layout: str
    channels: str
    resize: bool
    pad: bool
    original_size: bool
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    network_channels: str
    keep_ratio: bool
    resize_filter: str
    pad_value: int
    max_per_img: int
    score_threshold: float
    nms_iou: Optional[float]
    num_queries: int = 0
    strides: Tuple[int, ...] = ()

    def refuse_few_cells(self, hw: Tuple[int, int]) -> None:
        """Refuse a size of images that has fewer cells than the model selects.

        Raises:
            ValueError: The message says how many both are.
        """
        cells = sum(
            math.ceil(hw[0] / stride) * math.ceil(hw[1] / stride) for stride in self.strides
        )
        if cells < self.num_queries:
            raise ValueError(
                f'images of {hw[0]} x {hw[1]} have {cells} cells, and the model selects '
                f'{self.num_queries} queries among them: take larger images, or export for that '
                'size alone (without --dynamic-size)'
            )

    def to_json(self) -> str:
        return json.dumps(dict(format=FORMAT, **asdict(self)))

    @classmethod
    def from_json(cls, text: Optional[str], path: str) -> 'Metadata':
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: There is nothing, or it is of another format; the message names both.
        """
        if not text:
            raise ValueError(
                f'{path} was not written by tools/export.py: it does not say how images are '
                'prepared for it. Export the checkpoint again.'
            )
        try:
            values = dict(json.loads(text))
        except (TypeError, ValueError):
            raise ValueError(
                f'{path} says nothing legible about itself ({text[:40]!r}). Export the checkpoint '
                'again.'
            ) from None
        found = values.pop('format', None)
        if found != FORMAT:
            raise ValueError(
                f'{path} was written by deim_mmdet {values.get("version")} in format {found}, this '
                f'version reads format {FORMAT}. Export the checkpoint again, or use that version.'
            )
        names = {field.name for field in fields(cls)}
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
        if missing:
            raise ValueError(
                f'{path} was written by deim_mmdet {values.get("version")}, which did not state '
                f'{", ".join(missing)}. Export the checkpoint again, or use that version.'
            )
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names}
        return cls(**lists)
