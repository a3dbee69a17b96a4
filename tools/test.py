# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""mmdet's tools/test.py, with this plugin imported first; the arguments are mmdet's."""

import sys

from deim_mmdet.run import run_mmdet_tool

if __name__ == '__main__':
    run_mmdet_tool('test', sys.argv[1:])
