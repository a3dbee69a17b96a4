# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Callable, Dict, List, Mapping, Optional, Tuple, Union

from torch import Tensor

Parts = Tuple[str, ...]
Rows = Tuple[Tuple[Union[str, Parts], str], ...]

# Placeholders that every table can use: numbers, the last part of a name, any remainder.
COMMON = {'i': r'\d+', 'j': r'\d+', 'leaf': r'[^.]+', 'rest': r'.+'}


@dataclass(frozen=True)
class Family:
    """How the weights of one family of published checkpoints are called here, and the way back.

    A rule is a pair of templates, the published name and ours. ``{placeholder}`` stands for a
    part of the name, the same on both sides. The first rule that fits the whole name decides, in
    either direction. Where one of our tensors is published in parts, the rule names the parts in
    order, ``(('q.{leaf}', 'k.{leaf}', 'v.{leaf}'), 'in_proj_{leaf}')``: ours is their
    concatenation along dimension 0, each part as long as the others.

    Args:
        name (str): Name of the family.
        rules (tuple): Pairs (published template or tuple of templates, our template).
        dropped (tuple): Pairs (published template, why it is not needed). Defaults to none.
        copies (tuple): Pairs (published template, published template of the same tensor under
            another name, which a rule names): the first is not needed on the way in, and is
            written again on the way out. Defaults to none.
        unpublished (tuple): Our templates of tensors that published files lack: they are left out
            on the way out. Defaults to none.
        placeholders (dict): Own placeholders: a regular expression, or a dict from the published
            part of a name to ours, no two alike. Defaults to none.
        constants (tuple): Our names of values that the config fixes, too: a checkpoint may lack
            them. Defaults to none.
        computed (Callable, optional): Makes the published tensors that are computed, not learned,
            called with our weights and a :class:`PublishedForm`; returns them by published name.
            Defaults to None: there are none.
        layout (str): 'official' for the checkpoints of the methods' own repositories,
            'transformers' for those of Hugging Face. Defaults to 'official'.
    """

    name: str
    rules: Rows
    dropped: Tuple[Tuple[str, str], ...] = ()
    copies: Tuple[Tuple[str, str], ...] = ()
    unpublished: Tuple[str, ...] = ()
    placeholders: dict = field(default_factory=dict)
    constants: Tuple[str, ...] = ()
    computed: Optional[Callable[[Mapping[str, Tensor], 'PublishedForm'], Dict[str, Tensor]]] = None
    layout: str = 'official'

    def convert(self, key: str) -> Optional[str]:
        """Our name of the published ``key``, or of the whole that it is a part of; None when no
        rule names it."""
        for pattern, template in self._inwards:
            match = pattern.fullmatch(key)
            if match:
                return template.format(**self._translate(match.groupdict()))
        return None

    def revert(self, key: str) -> Parts:
        """Published names of our ``key``, several when it is published in parts, in their order;
        empty when no rule names it."""
        for pattern, templates in self._outwards:
            match = pattern.fullmatch(key)
            if match:
                names = self._translate(match.groupdict(), back=True)
                return tuple(template.format(**names) for template in templates)
        return ()

    def second_names(self, key: str) -> Parts:
        """Other names under which the published tensor ``key`` is published again."""
        matches = ((second, pattern.fullmatch(key)) for second, pattern in self._originals)
        return tuple(second.format(**match.groupdict()) for second, match in matches if match)

    def is_unpublished(self, key: str) -> bool:
        """Whether published files lack our ``key``."""
        return any(self._pattern(template).fullmatch(key) for template in self.unpublished)

    def reason_to_drop(self, key: str) -> Optional[str]:
        """Why the published ``key`` is not needed, or None when no row says that."""
        for pattern, reason in self._dropped_patterns:
            if pattern.fullmatch(key):
                return reason
        return None

    @cached_property
    def _inwards(self) -> List[Tuple[re.Pattern, str]]:
        return [
            (self._pattern(part), ours)
            for published, ours in self.rules
            for part in _parts(published)
        ]

    @cached_property
    def _outwards(self) -> List[Tuple[re.Pattern, Parts]]:
        return [
            (self._pattern(ours, back=True), _parts(published)) for published, ours in self.rules
        ]

    @cached_property
    def _originals(self) -> List[Tuple[str, re.Pattern]]:
        return [(second, self._pattern(first)) for second, first in self.copies]

    @cached_property
    def _dropped_patterns(self) -> List[Tuple[re.Pattern, str]]:
        rows = [(second, 'second copy of another') for second, _ in self.copies]
        return [(self._pattern(published), reason) for published, reason in (*self.dropped, *rows)]

    def _pattern(self, template: str, back: bool = False) -> re.Pattern:
        known = {**COMMON, **self.placeholders}
        parts = re.split(r'\{(\w+)\}', template)  # text, placeholder, text, ...
        parts[::2] = map(re.escape, parts[::2])
        for index in range(1, len(parts), 2):
            allowed = known[parts[index]]
            if isinstance(allowed, dict):
                allowed = '|'.join(map(re.escape, allowed.values() if back else allowed))
            parts[index] = f'(?P<{parts[index]}>{allowed})'
        return re.compile(''.join(parts))

    def _translate(self, parts: Dict[str, str], back: bool = False) -> Dict[str, str]:
        for name in parts.keys() & self.placeholders.keys():
            names = self.placeholders[name]
            if isinstance(names, dict):
                names = {ours: theirs for theirs, ours in names.items()} if back else names
                parts[name] = names[parts[name]]
        return parts


@dataclass(frozen=True)
class PublishedForm:
    """What a published checkpoint is made for, beyond its learned weights.

    Args:
        input_hw (tuple[int, int]): Height and width of the input in pixels. Defaults to 640, 640.
        points_per_level (tuple[int], optional): Sampling points of the decoder on each level, fine
            to coarse. Defaults to None: those of the published models.
    """

    input_hw: Tuple[int, int] = (640, 640)
    points_per_level: Optional[Tuple[int, ...]] = None


def under(published: str, ours: str, *rows: Tuple[Union[str, Parts], str]) -> Rows:
    """Rows whose names all begin with ``published`` and ``ours``."""
    return tuple(
        (
            tuple(published + part for part in left)
            if isinstance(left, tuple)
            else published + left,
            ours + right,
        )
        for left, right in rows
    )


def _parts(published: Union[str, Parts]) -> Parts:
    return (published,) if isinstance(published, str) else published
