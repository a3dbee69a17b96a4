# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""From a trained detector to files.

In reading order: :mod:`.onnx_export` traces what :mod:`.end_to_end` makes of a detector and sends
the graph through :mod:`.simplify` and :mod:`.half`; :mod:`.quantize` makes another graph of that
one. What is to run it is a :class:`~.target.Target`, of :mod:`.openvino_export` or
:mod:`.tensorrt_export`.
"""
