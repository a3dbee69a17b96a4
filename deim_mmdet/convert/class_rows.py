# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Puts the class rows of a checkpoint into the order of another class list, by the names."""

import copy
import re
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

import torch
from mmengine.model import bias_init_with_prob
from torch import Tensor

# Tensors whose first dimension is the class: ours, and those of mmdet's DETRs with sigmoid scores.
CLASS_TENSOR = re.compile(
    r'(^|\.)(cls_branch|cls_branches\.\d+|fc_cls|label_embedding)\.(weight|bias)$'
)
# Of these, tensors that may have a last row for no class: padding label, background of a softmax.
LAST_ROW = re.compile(r'label_embedding|fc_cls')
NO_CLASS = '(none)'  # name of a row that stands for no class, where a name must be given
PRIOR = 0.01  # score of a class that was never seen
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # category ids that COCO does not use

# Names that different data sets give to the same thing: COCO, Objects365 (with its spelling), VOC.
SYNONYMS = (
    ('airplane', 'aeroplane'),
    ('balloon', 'ballon'),
    ('basket', 'bakset'),
    ('bicycle', 'bike'),
    ('bird', 'wild bird'),
    ('butterfly', 'buttefly'),
    ('camel', 'campel'),
    ('cell phone', 'mobile phone', 'cellular phone'),
    ('couch', 'sofa'),
    ('dining table', 'dinning table'),
    ('donut', 'doughnut'),
    ('hair drier', 'hair dryer'),
    ('motorcycle', 'motorbike'),
    ('mushroom', 'mushroon'),
    ('noodles', 'noddles'),
    ('person', 'people', 'pedestrian', 'human'),
    ('refrigerator', 'fridge'),
    ('remote', 'remote control'),
    ('skis', 'skiboard'),
    ('sports ball', 'other balls'),
    ('suitcase', 'luggage'),
    ('teddy bear', 'stuffed toy'),
    ('tv', 'television', 'monitor', 'moniter', 'tv monitor'),
)


@dataclass(frozen=True)
class ClassRows:
    """Which row of a checkpoint each class begins with.

    Attributes:
        wanted (tuple[str]): Classes of the model, in the order of its rows.
        known (tuple[str | None]): Classes of the checkpoint, in the order of its rows; None for a
            row without a class.
        rows (tuple[int]): Row of the checkpoint for each class of the model, -1 for none.
    """

    wanted: Tuple[str, ...]
    known: Tuple[Optional[str], ...]
    rows: Tuple[int, ...]

    @property
    def found(self) -> int:
        """Number of classes that the checkpoint has."""
        return sum(row >= 0 for row in self.rows)

    @property
    def same(self) -> bool:
        """Whether every row stays where it is."""
        return self.rows == tuple(range(len(self.known)))

    def __str__(self) -> str:
        if self.same:
            return f'class rows: all {len(self.rows)} as in the checkpoint'
        pairs = [f'{w} <- {self.known[r]}' for w, r in zip(self.wanted, self.rows) if r >= 0]
        new = [w for w, r in zip(self.wanted, self.rows) if r < 0]
        text = f'class rows: {self.found} of {len(self.rows)} from the checkpoint'
        text += f' ({_some(pairs)})' if pairs else ''
        return text + (f', new: {_some(new)}' if new else '')


@dataclass(frozen=True)
class FittedWeights:
    """Weights for a class list, and what to tell the user about them.

    Attributes:
        state (Mapping[str, Tensor]): The weights.
        message (str): Which rows came from where.
        hint (str): What to do about it; empty where classes were found.
    """

    state: Mapping[str, Tensor]
    message: str
    hint: str = ''


def fit_class_rows(
    checkpoint: Mapping,
    own: Mapping[str, Tensor],
    wanted: Sequence[str],
    aliases: Optional[Mapping[str, str]] = None,
    training: bool = True,
) -> FittedWeights:
    """Weights of a checkpoint for a model of other classes.

    Args:
        checkpoint (Mapping): Checkpoint with 'state_dict', see :func:`known_classes`.
        own (Mapping[str, Tensor]): Weights of the model before loading.
        wanted (Sequence[str]): Classes of the data set.
        aliases (Mapping[str, str], optional): See :func:`find_class_rows`. Defaults to None.
        training (bool): Whether the model is going to learn. If not, a list of the same length
            without a common name is taken for the same classes, renamed. Defaults to True.

    Returns:
        FittedWeights: The weights; the checkpoint is not changed.

    Raises:
        ValueError: If a class list names a class twice, has another length than its head, or an
            alias is in neither list.
    """
    state = checkpoint['state_dict']
    background = has_background_row(own, len(wanted))
    number = count_class_rows(state) - background
    known = known_classes(checkpoint, background)
    if not set(own).intersection(class_tensors(state)):
        return FittedWeights(state, *_about_other_parts(wanted, known))
    if known is None and number == len(wanted):
        message = f'class rows: the checkpoint does not name its {number} classes, kept in order'
        return FittedWeights(state, message, 'Make sure that the data set has the same order.')
    rows = find_class_rows(wanted, (None,) * number if known is None else known, aliases)
    if rows.found:
        return FittedWeights(map_class_rows(state, own, rows), str(rows))
    names = 'which it does not name' if known is None else _some(known)
    message = (
        f'class rows: no class of the data set ({_some(rows.wanted)}) is among the {number} of the '
        f'checkpoint ({names}); '
    )
    hint = "Say what it calls them in LoadWeightsHook's aliases=dict(my_class='its class')."
    if not training and number == len(wanted):
        return FittedWeights(state, f'{message}its rows are kept in order', hint)
    return FittedWeights(map_class_rows(state, own, rows), f'{message}all of them are new', hint)


def _about_other_parts(
    wanted: Sequence[str], known: Optional[Sequence[Optional[str]]]
) -> Tuple[str, str]:
    """Message and hint where the model takes weights, but no class rows: DEYO from a YOLOv8."""
    message = 'class rows: the model takes none of the checkpoint'
    rows = find_class_rows(wanted, known or ())
    other = [name for name, row in zip(rows.wanted, rows.rows) if row < 0]
    if not other or known is None:
        return message, ''
    return (
        f'{message}, which was trained on other classes: {_some(other)} of the data set are not '
        f'among its {len(rows.known)} ({_some(rows.known)})',
        'A part that is frozen never adapts to them: train it on this data set first.',
    )


def fit_category_ids(
    state: Mapping[str, Tensor], num_classes: int
) -> Tuple[Mapping[str, Tensor], Optional[ClassRows]]:
    """Weights for COCO's 80 classes of weights for its 91 category ids.

    Args:
        state (Mapping[str, Tensor]): Weights under our names.
        num_classes (int): Classes of the model that they are for.

    Returns:
        tuple[Mapping[str, Tensor], ClassRows | None]: The weights with a row per class, and the
        row of the category of each; the weights as they are, and None, if the numbers of classes
        are others.
    """
    classes, ids = classes_of_rows(80), classes_of_rows(91)
    if (count_class_rows(state), num_classes) != (len(ids), len(classes)):
        return state, None
    rows = find_class_rows(classes, ids)
    # every class is found, so that only the shapes of these matter
    own = {key: state[key][len(ids) - len(classes) :] for key in class_tensors(state)}
    return map_class_rows(state, own, rows), rows


def find_class_rows(
    wanted: Sequence[str],
    known: Sequence[Optional[str]],
    aliases: Optional[Mapping[str, str]] = None,
) -> ClassRows:
    """Finds each class in another class list, by its name.

    The first of these that finds a row decides: the very name; the name without case, spaces,
    underscores, hyphens; one of the names that '/' separates ('Handbag/Satchel'); a synonym of
    :data:`SYNONYMS`. Two classes may find the same row.

    Args:
        wanted (Sequence[str]): Classes of the model.
        known (Sequence[str | None]): Classes of the checkpoint; None for a row without a class.
        aliases (Mapping[str, str], optional): Class of the model -> what the checkpoint calls it,
            where that is another name. Defaults to None.

    Returns:
        ClassRows: The row of each class.

    Raises:
        ValueError: If a list names a class twice, or an alias is in neither list.
    """
    wanted, known = tuple(map(str, wanted)), tuple(n if n is None else str(n) for n in known)
    _refuse_duplicates(wanted, known)
    called = {name: name for name in wanted}
    row_of = _row_finder(known)
    for name, alias in (aliases or {}).items():
        if name not in called or row_of(str(alias)) < 0:
            raise ValueError(
                f'aliases says that the class {name!r} is called {alias!r} in the checkpoint. '
                f'Classes of the data set: {_some(wanted, 20)}; of the checkpoint: '
                f'{_some(known, 20)}. Name one of each.'
            )
        called[name] = str(alias)
    return ClassRows(wanted, known, tuple(row_of(called[name]) for name in wanted))


def map_class_rows(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], rows: ClassRows
) -> Dict[str, Tensor]:
    """Weights in which every class tensor has the rows of the model.

    Rows without a class in the checkpoint are those of ``own``, with the bias that gives a score of
    0.01. A last row for no class (the padding label of denoising) is copied.

    Args:
        state (Mapping[str, Tensor]): Weights of the checkpoint.
        own (Mapping[str, Tensor]): Weights of the model before loading.
        rows (ClassRows): Result of :func:`find_class_rows`.

    Returns:
        dict[str, Tensor]: New weights; neither argument is changed.

    Raises:
        ValueError: If a class list has another length than the head it belongs to.
    """
    mapped = copy.copy(state)  # with its _metadata
    for key in class_tensors(state):
        name = key[len('module.') :] if key.startswith('module.') else key
        if name not in own:
            continue
        old, new = state[key], own[name].detach().clone()
        extra = 1 if LAST_ROW.search(name) and len(old) > len(rows.known) else 0
        for what, tensor, names in (
            ('checkpoint', old, rows.known),
            ('model', new, rows.wanted),
        ):
            if len(tensor) != len(names) + extra:
                raise ValueError(
                    f'{name} of the {what} has {len(tensor) - extra} class rows, but its class '
                    f'list has {len(names)}. Classes of the checkpoint: {_all(rows.known)}; of the '
                    f'data set: {_all(rows.wanted)}. Correct the list, or num_classes.'
                )
        if old.shape[1:] != new.shape[1:]:
            continue  # a model of another size, which loading refuses with the better message
        if name.endswith('.bias') and not extra:
            new.fill_(bias_init_with_prob(PRIOR))
        # index -1 is never used: those rows are filtered
        taken = torch.tensor(rows.rows, dtype=torch.long, device=old.device)
        there = (taken >= 0).to(new.device)
        old = old.to(new)
        new[: len(rows.wanted)][there] = old[taken[taken >= 0]]
        if extra:
            new[-1] = old[-1]
        mapped[key] = new
    return mapped


def class_tensors(state: Iterable[str]) -> List[str]:
    """Names of the tensors that have a row per class; none where no class has a score.

    The scores of Grounding-DINO compare words: its only bias stands for all of them, and has no
    weight beside it.
    """
    keys = list(state)
    there = set(keys)
    found = [
        key
        for key in keys
        if CLASS_TENSOR.search(key) and re.sub(r'\.bias$', '.weight', key) in there
    ]
    return found if any('label_embedding' not in key for key in found) else []


def has_background_row(own: Mapping[str, Tensor], number: int) -> bool:
    """Whether a model for a number of classes has a softmax: its last row is the background."""
    rows = (len(own[key]) for key in class_tensors(own) if 'fc_cls' in key)
    return any(each == number + 1 for each in rows)


def known_classes(
    checkpoint: Mapping, background: bool = False
) -> Optional[Tuple[Optional[str], ...]]:
    """Names of the class rows of a checkpoint.

    Args:
        checkpoint (Mapping): Checkpoint with 'state_dict'. Without class names in its 'meta' 80
            rows are COCO's classes, 91 COCO's by category id, 365 those of Objects365 (v2), 366 the
            same by category id, which begins with 1.
        background (bool): Whether the last row is that of no class, which is not counted here.
            Defaults to False.

    Returns:
        tuple[str | None] | None: A name for each row, None for a row that stands for no class; None
        when the names are not known.
    """
    meta = checkpoint.get('meta') or {}
    dataset_meta = {k.lower(): v for k, v in (meta.get('dataset_meta') or {}).items()}
    names = dataset_meta.get('classes') or meta.get('CLASSES')
    rows = count_class_rows(checkpoint['state_dict']) - background
    if names:
        names = (names,) if isinstance(names, str) else tuple(names)
        names = tuple(None if name == NO_CLASS else name for name in names)
        # published Objects365 weights whose classes were given by name
        return (None, *names) if (rows, len(names)) == (366, 365) else names
    return classes_of_rows(rows)


def count_class_rows(state: Mapping[str, Tensor]) -> int:
    """Number of class rows of weights; 0 when there is no class tensor."""
    counts = [len(state[key]) for key in class_tensors(state) if 'label_embedding' not in key]
    return counts[0] if counts else 0


def classes_of_rows(rows: int) -> Optional[Tuple[Optional[str], ...]]:
    """Names of the rows of a published head, by their number; None when no data set has it."""
    from mmdet.datasets import CocoDataset, Objects365V2Dataset

    coco = CocoDataset.METAINFO['classes']
    objects365 = Objects365V2Dataset.METAINFO['classes']
    if rows == 91:
        ids = [i for i in range(1, 91) if i not in COCO_GAPS]
        names = dict(zip(ids, coco))
        return tuple(names.get(i) for i in range(91))
    return {80: coco, 365: objects365, 366: (None, *objects365)}.get(rows)


def _row_finder(known: Sequence[Optional[str]]) -> Callable[[str], int]:
    """A function from a name to the row of the class of that name, -1 for none."""
    tables = []
    for spell in SPELLINGS:
        table = {}
        for row, name in enumerate(known):
            for key in spell(name) if name is not None else ():
                table.setdefault(key, row)
        tables.append((spell, table))

    def row_of(name: str) -> int:
        for spell, table in tables:
            rows = [table[key] for key in spell(name) if key in table]
            if rows:
                return min(rows)
        return -1

    return row_of


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]', '', name).lower()


def _alternatives(name: str) -> Set[str]:
    return {_plain(name)} | {_plain(part) for part in name.split('/')} - {''}


_GROUPS = {_plain(name): group[0] for group in SYNONYMS for name in group}

# From strict to lenient: the keys under which a name is known; names that share one are the same.
SPELLINGS: Tuple[Callable[[str], Set[str]], ...] = (
    lambda name: {name},
    lambda name: {_plain(name)},
    _alternatives,
    lambda name: {_GROUPS.get(part, part) for part in _alternatives(name)},
)


def _refuse_duplicates(wanted: Sequence[str], known: Sequence[Optional[str]]) -> None:
    for what, names in (('data set', wanted), ('checkpoint', known)):
        named = [name for name in names if name is not None]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(
                f'The class list of the {what} names {_some(twice)} more than once. Classes of the '
                f'checkpoint: {_all(known)}; of the data set: {_all(wanted)}. Name each once.'
            )


def _all(names: Sequence[Optional[str]]) -> str:
    return ', '.join(NO_CLASS if name is None else repr(name) for name in names)


def _some(names: Sequence[Optional[str]], most: int = 8) -> str:
    names = [name for name in names if name is not None]
    more = f', and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
