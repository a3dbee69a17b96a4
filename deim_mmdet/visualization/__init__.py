# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .comparison import compare_with_truth, draw_boxes
from .curves import plot_ap_curve, plot_convergence, plot_matching_stability

__all__ = [
    'compare_with_truth',
    'draw_boxes',
    'plot_ap_curve',
    'plot_convergence',
    'plot_matching_stability',
]
