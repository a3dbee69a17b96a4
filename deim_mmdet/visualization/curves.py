# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Sequence, Union

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deim_mmdet.benchmark.convergence_curves import Summary

AP_LABEL = 'COCO AP on the validation set'


def plot_ap_curve(
    epochs: Sequence[int],
    curves: Dict[str, Sequence[float]],
    file: Union[str, Path],
    title: str = '',
) -> None:
    """Draw AP over epochs.

    Args:
        epochs (Sequence[int]): Epochs after which the model was evaluated.
        curves (dict[str, Sequence[float]]): Values in [0, 1] for each name, one per epoch;
            NaN where there is none.
        file (str | Path): Picture to write.
        title (str): Title of the plot. Defaults to ''.
    """
    # A figure without pyplot: no window system is looked for, no global state is touched.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    draw_curves(axes, epochs, curves)
    axes.set(ylabel=AP_LABEL, ylim=(0, 1), title=title)
    axes.legend(loc='lower right')
    figure.savefig(file)


def plot_matching_stability(
    epochs: Sequence[int],
    ap: Dict[str, Sequence[float]],
    instability: Dict[str, Sequence[float]],
    file: Union[str, Path],
    title: str = '',
) -> None:
    """Draw AP and instability of the matching over epochs, side by side.

    Args:
        epochs (Sequence[int]): Epochs after which both were measured.
        ap (dict[str, Sequence[float]]): AP in [0, 1] of each run, one per epoch; NaN where there is
            none.
        instability (dict[str, Sequence[float]]): Share of objects, in [0, 1], that have another
            query than an epoch ago, of the same runs in the same order; NaN where there is none,
            as after the first epoch.
        file (str | Path): Picture to write.
        title (str): Title of the plot. Defaults to ''.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), dpi=120, layout='constrained')
    left, right = figure.subplots(1, 2)
    draw_curves(left, epochs, ap)
    draw_curves(right, epochs, instability)
    left.set(ylabel=AP_LABEL, ylim=(0, None))
    right.set(ylabel='objects with another query than an epoch ago', ylim=(0, 1))
    left.legend(loc='upper left')
    figure.suptitle(title)
    figure.savefig(file)


def plot_convergence(
    summaries: Dict[str, Dict[str, 'Summary']], file: Union[str, Path], title: str = ''
) -> None:
    """Draw AP over epochs of all variants, a panel for each detector.

    A band reaches from the least to the greatest of the seeds; the dashed line is the last AP of
    the baseline.

    Args:
        summaries (dict[str, dict[str, Summary]]): By detector and title of the variant, at least
            one; the first variant is the baseline.
        file (str | Path): Picture to write.
        title (str): Title of the plot. Defaults to ''.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(summaries), 4.5), dpi=120, layout='constrained')
    panels = figure.subplots(1, len(summaries), squeeze=False, sharey=True)[0]
    for axes, (detector, variants) in zip(panels, summaries.items()):
        for name, summary in variants.items():
            epochs = range(1, len(summary.curve) + 1)
            (line,) = axes.plot(epochs, summary.curve, marker='o', markersize=3, label=name)
            axes.fill_between(
                epochs, summary.lowest, summary.highest, color=line.get_color(), alpha=0.12
            )
        baseline = next(iter(variants.values()))
        axes.axhline(baseline.target, color='black', linestyle='--', linewidth=0.8)
        axes.set(title=detector, xlabel='epoch', xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(loc='upper left')
    panels[0].set(ylabel=AP_LABEL, ylim=(0, None))  # shared: only now is the highest curve known
    figure.suptitle(title)
    figure.savefig(file)


def draw_curves(axes: 'Axes', epochs: Sequence[int], curves: Dict[str, Sequence[float]]) -> None:
    """Draw values over epochs, and write the last one of each curve next to it.

    Args:
        axes (matplotlib.axes.Axes): Where to draw; its limits and label of the epochs are set.
        epochs (Sequence[int]): Epochs of the values.
        curves (dict[str, Sequence[float]]): Values for each name, one per epoch; NaN where there
            is none.
    """
    for name, values in curves.items():
        (line,) = axes.plot(epochs, values, marker='o', markersize=4, label=name)
        known = [(epoch, value) for epoch, value in zip(epochs, values) if value == value]
        if known:
            axes.annotate(
                f'{known[-1][1]:.3f}',
                known[-1],
                textcoords='offset points',
                xytext=(6, 0),
                va='center',
                color=line.get_color(),
            )
    axes.set(xlabel='epoch')
    axes.set_xlim(0, max([*epochs, 1]) * 1.12)  # room for the last values
    axes.grid(alpha=0.3)
