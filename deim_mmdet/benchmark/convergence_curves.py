# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""AP per epoch of runs that differ in one thing, and how many epochs one needs to catch another up.

A run is written epoch by epoch to a CSV file of its own, so that it can be stopped at any time.
"""

import csv
import io
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

BASELINE = 'baseline'


@dataclass(frozen=True)
class Variant:
    """What of DEIM a run has.

    Attributes:
        title (str): Its name in tables.
        dense_o2o (bool): Mosaics and MixUp.
        mal (bool): Matchability-Aware Loss instead of the varifocal loss.
        halves (int): Length of the run, in halves of that of the baseline.
    """

    title: str
    dense_o2o: bool
    mal: bool
    halves: int = 2

    def epochs(self, of_baseline: int) -> int:
        return of_baseline * self.halves // 2


VARIANTS = {
    BASELINE: Variant('baseline', False, False),
    'both': Variant('both', True, True),
    'dense-o2o': Variant('+ Dense O2O', True, False),
    'mal': Variant('+ MAL', False, True),
    'both-half': Variant('both, half the epochs', True, True, halves=1),
}


@dataclass(frozen=True)
class RunName:
    """A run: ``str()`` gives the name of its folder."""

    detector: str
    variant: str
    seed: int

    def __str__(self) -> str:
        return f'{self.detector}_{self.variant}_seed-{self.seed}'

    @classmethod
    def parse(cls, text: str) -> 'RunName':
        detector, variant, seed = text.rsplit('_', 2)
        return cls(detector, variant, int(seed[len('seed-') :]))


@dataclass(frozen=True)
class Epoch:
    """A row of the file of a run.

    Attributes:
        epoch (int): Counted from 1.
        AP, AP50, AP75 (float): Of the evaluation after it, in [0, 1].
        objects_per_image (float): Mean over its training images, as the losses see them.
        seconds, cpu_seconds (float): That the epoch and its evaluation took.
        weights_crc32 (int): Of the weights the run began with.
        order_crc32, images_crc32 (int): Of the ids and pixels of its images.
    """

    epoch: int
    AP: float
    AP50: float
    AP75: float
    objects_per_image: float
    seconds: float
    cpu_seconds: float
    weights_crc32: int
    order_crc32: int
    images_crc32: int


COLUMNS = tuple(field.name for field in fields(Epoch))
Curves = Dict[RunName, List[Epoch]]


def order_of_runs(
    detectors: Sequence[str], variants: Sequence[str], seeds: Sequence[int]
) -> List[RunName]:
    """All runs, those first without which the others tell nothing.

    One seed after the other, so that what is finished can be compared at any time; of a seed the
    runs of full length first, in the order of ``VARIANTS``.
    """
    ordered = [name for name in VARIANTS if name in variants]
    return [RunName(d, variant, seed) for seed in seeds for variant in ordered for d in detectors]


def read_epochs(file: Union[str, os.PathLike]) -> List[Epoch]:
    """The rows of a file; none if there is no file.

    Raises:
        ValueError: If it is not a file of a run.
    """
    file = Path(file)
    if not file.exists():
        return []
    rows = list(csv.reader(io.StringIO(file.read_text())))
    try:
        if tuple(rows[0]) != COLUMNS:
            raise ValueError('other columns')
        epochs = [Epoch(*(f.type(x) for f, x in zip(fields(Epoch), row))) for row in rows[1:]]
        if [e.epoch for e in epochs] != list(range(1, len(epochs) + 1)):
            raise ValueError('epochs are missing')
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f'{file} is not the file of a run ({error}); remove it, and its run begins anew.'
        ) from None
    return epochs


def epochs_to_csv(epochs: Sequence[Epoch]) -> str:
    """The text of a file of a run."""
    return _to_csv([COLUMNS, *(_cells(epoch) for epoch in epochs)])


def curves_to_csv(curves: Curves) -> str:
    """All runs in one table, with the name of the run in the first columns."""
    rows = [
        (run.detector, run.variant, run.seed, *_cells(epoch))
        for run, epochs in curves.items()
        for epoch in epochs
    ]
    return _to_csv([('detector', 'variant', 'seed', *COLUMNS), *rows])


def _cells(epoch: Epoch) -> List[str]:
    return [f'{x:.4f}' if isinstance(x, float) else str(x) for x in astuple(epoch)]


def _to_csv(rows: Sequence[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def epochs_to_reach(curve: Sequence[float], target: float) -> Optional[int]:
    """The first epoch, counted from 1, whose value is at least ``target``; None for none."""
    return next((i for i, value in enumerate(curve, 1) if value >= target), None)


def mean_curve(curves: Sequence[Sequence[float]]) -> List[float]:
    """Mean of curves of the same length, epoch by epoch."""
    return [sum(values) / len(values) for values in zip(*curves)]


def check_same_conditions(curves: Curves, same_images: bool = True) -> None:
    """Refuse to compare runs that differ in more than they are meant to.

    Runs of a detector and a seed begin with the same weights and see the images in the same order;
    those with the same augmentation and length see the same pixels.

    Args:
        curves (dict[RunName, list[Epoch]]): The runs.
        same_images (bool): Whether to compare pixels: worker processes that begin anew, in a
            resumed run, draw other random numbers. Defaults to True.

    Raises:
        ValueError: If two runs cannot be compared.
    """
    firsts: Dict[tuple, Tuple[RunName, List[Epoch]]] = {}
    for run, epochs in curves.items():
        variant = VARIANTS[run.variant]
        keys = {('weights_crc32', 'order_crc32'): (run.detector, run.seed)}
        if same_images:
            augmentation = variant.dense_o2o, variant.halves
            keys[('images_crc32',)] = (run.detector, run.seed, *augmentation)
        for columns, key in keys.items():
            first, others = firsts.setdefault((columns, key), (run, epochs))
            for one, other in zip(epochs, others):
                differing = [c for c in columns if getattr(one, c) != getattr(other, c)]
                if differing:
                    raise ValueError(
                        f'{run} and {first} cannot be compared: in epoch {one.epoch} they differ '
                        f'in {", ".join(differing)}. Versions or files have changed between them; '
                        'begin anew in another folder.'
                    )


@dataclass(frozen=True)
class Summary:
    """A variant of a detector beside its baseline, over the seeds that both have.

    Attributes:
        seeds (list[int]): The seeds.
        curve (list[float]): Mean AP after each epoch.
        lowest, highest (list[float]): Least and greatest of the seeds.
        last (list[float]): Last AP of each seed.
        objects_per_image (float): Mean over the whole run.
        target (float): Last AP of the baseline, the mean of the seeds.
        reached (int | None): First epoch whose mean AP is at least ``target``.
        reached_by_seed (list[int | None]): The same of each seed beside its own baseline.
        length (int): Epochs of the baseline.
    """

    seeds: List[int]
    curve: List[float]
    lowest: List[float]
    highest: List[float]
    last: List[float]
    objects_per_image: float
    target: float
    reached: Optional[int]
    reached_by_seed: List[Optional[int]]
    length: int


def summarize(curves: Curves) -> Dict[str, Dict[str, Summary]]:
    """Each variant of each detector beside its baseline; those without a common seed are left out.

    Args:
        curves (dict[RunName, list[Epoch]]): Finished runs.

    Returns:
        dict[str, dict[str, Summary]]: By detector and variant.
    """
    found: Dict[str, Dict[str, Summary]] = {}
    for detector in dict.fromkeys(run.detector for run in curves):
        for variant in VARIANTS:
            seeds = [
                run.seed
                for run in curves
                if (run.detector, run.variant) == (detector, variant)
                and RunName(detector, BASELINE, run.seed) in curves
            ]
            if not seeds:
                continue
            own = [curves[RunName(detector, variant, seed)] for seed in seeds]
            base = [[e.AP for e in curves[RunName(detector, BASELINE, seed)]] for seed in seeds]
            aps = [[e.AP for e in epochs] for epochs in own]
            curve = mean_curve(aps)
            # a mean of equal numbers may be less than they are, by rounding
            target = round(sum(x[-1] for x in base) / len(base), 6)
            found.setdefault(detector, {})[variant] = Summary(
                seeds=seeds,
                curve=curve,
                lowest=[min(values) for values in zip(*aps)],
                highest=[max(values) for values in zip(*aps)],
                last=[x[-1] for x in aps],
                objects_per_image=sum(e.objects_per_image for x in own for e in x)
                / sum(len(x) for x in own),
                target=target,
                reached=epochs_to_reach([round(x, 6) for x in curve], target),
                reached_by_seed=[epochs_to_reach(x, b[-1]) for x, b in zip(aps, base)],
                length=len(base[0]),
            )
    return found


def markdown_table(summaries: Dict[str, Dict[str, Summary]]) -> str:
    """The last AP of each variant, and after how many epochs it had that of its baseline."""
    lines = [
        '| detector | variant | epochs | objects per image | last AP | of each seed '
        "| epochs to the baseline's last AP | of each seed | share |",
        '|---|---|---:|---:|---:|---|---:|---|---:|',
    ]
    for detector, variants in summaries.items():
        for variant, s in variants.items():
            share = f'{s.reached / s.length:.0%}' if s.reached else ''
            cells = [
                detector,
                VARIANTS[variant].title,
                len(s.curve),
                f'{s.objects_per_image:.1f}',
                f'{s.curve[-1]:.3f}',
                ', '.join(f'{ap:.3f}' for ap in s.last),
                s.reached or 'not reached',
                ', '.join(str(epochs or 'not') for epochs in s.reached_by_seed),
                share,
            ]
            lines.append(f'| {" | ".join(map(str, cells))} |')
    return '\n'.join(lines) + '\n'
