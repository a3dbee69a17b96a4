# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .ap_curve import plot_ap_curve, plot_matching_stability
from .comparison import compare_with_truth, draw_boxes

__all__ = ['compare_with_truth', 'draw_boxes', 'plot_ap_curve', 'plot_matching_stability']
