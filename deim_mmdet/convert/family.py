# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Dict, List, Optional, Tuple

Rows = Tuple[Tuple[str, str], ...]

# Placeholders that every table can use: numbers, the last part of a name, any remainder.
COMMON = {'i': r'\d+', 'j': r'\d+', 'leaf': r'[^.]+', 'rest': r'.+'}


@dataclass(frozen=True)
class Family:
    """How the weights of one family of published checkpoints are called here.

    A rule is a pair of templates, the published name and ours. ``{placeholder}`` stands for a
    part of the name, the same on both sides. The first rule that fits the whole name decides.

    Args:
        name (str): Name of the family.
        rules (tuple): Pairs (published template, our template).
        dropped (tuple): Pairs (published template, why it is not needed).
        placeholders (dict): Own placeholders: a regular expression, or a dict from the published
            part of a name to ours. Defaults to none.
        constants (tuple): Our names of values that the config fixes, too: a checkpoint may lack
            them. Defaults to none.
    """

    name: str
    rules: Rows
    dropped: Rows
    placeholders: dict = field(default_factory=dict)
    constants: Tuple[str, ...] = ()

    def convert(self, key: str) -> Optional[str]:
        """Our name of the published ``key``, or None when no rule names it."""
        for pattern, template in self._rule_patterns:
            match = pattern.fullmatch(key)
            if match:
                return template.format(**self._translate(match.groupdict()))
        return None

    def reason_to_drop(self, key: str) -> Optional[str]:
        """Why the published ``key`` is not needed, or None when no rule says that."""
        for pattern, reason in self._dropped_patterns:
            if pattern.fullmatch(key):
                return reason
        return None

    @cached_property
    def _rule_patterns(self) -> List[Tuple[re.Pattern, str]]:
        return [(self._pattern(published), ours) for published, ours in self.rules]

    @cached_property
    def _dropped_patterns(self) -> List[Tuple[re.Pattern, str]]:
        return [(self._pattern(published), reason) for published, reason in self.dropped]

    def _pattern(self, template: str) -> re.Pattern:
        known = {**COMMON, **self.placeholders}
        parts = re.split(r'\{(\w+)\}', template)  # text, placeholder, text, ...
        parts[::2] = map(re.escape, parts[::2])
        for index in range(1, len(parts), 2):
            allowed = known[parts[index]]
            if isinstance(allowed, dict):
                allowed = '|'.join(map(re.escape, allowed))
            parts[index] = f'(?P<{parts[index]}>{allowed})'
        return re.compile(''.join(parts))

    def _translate(self, parts: Dict[str, str]) -> Dict[str, str]:
        ours = dict(parts)
        for name, part in parts.items():
            if isinstance(self.placeholders.get(name), dict):
                ours[name] = self.placeholders[name][part]
        return ours


def under(published: str, ours: str, *rows: Tuple[str, str]) -> Rows:
    """Rows whose names all begin with ``published`` and ``ours``."""
    return tuple((published + left, ours + right) for left, right in rows)
