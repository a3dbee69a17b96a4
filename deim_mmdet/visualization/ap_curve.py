# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Dict, Sequence, Union


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
    axes.set(xlabel='epoch', ylabel='COCO AP on the validation set', ylim=(0, 1), title=title)
    axes.set_xlim(0, max([*epochs, 1]) * 1.12)  # room for the last values
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    figure.savefig(file)
