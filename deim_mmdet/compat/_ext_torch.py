# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Takes the place of mmcv's compiled extension, ``mmcv._ext``, under mmcv-lite.

The ops that mmdet's DETR-like and one-stage detectors use are written in PyTorch, with the calling
convention of the compiled ones (which write into buffers of the caller). Every other op exists, so
that ``mmcv.ops`` can be imported, and says what to install when it is called.
"""

import numpy as np
import torch
import torch.nn.functional as F

# Rows of the IoU matrix that nms holds at a time: 256 x 10,000 boxes take 10 MB.
NMS_BLOCK = 256


def nms(boxes, scores, iou_threshold, offset):
    """Greedy non-maximum suppression.

    Args:
        boxes (Tensor): Absolute boxes, shape (n, 4), ordered (x1, y1, x2, y2).
        scores (Tensor): Scores, shape (n,).
        iou_threshold (float): A box goes when its IoU with a kept box of higher score is greater.
        offset (int): 0 or 1; the width of a box is ``x2 - x1 + offset``.

    Returns:
        Tensor: Indices of the kept boxes, highest score first, int64, on the device of ``boxes``.
    """
    order = scores.argsort(descending=True)
    boxes = boxes.detach()[order]
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    kept = []
    alive = torch.arange(len(boxes), device=boxes.device)
    while len(alive):
        block, alive = alive[:NMS_BLOCK], alive[NMS_BLOCK:]
        overlaps = _overlap(boxes[block], boxes[block], offset) > iou_threshold
        block = block[_greedy(overlaps.cpu().numpy())]
        kept.append(block)
        if len(alive):
            suppressed = _overlap(boxes[block], boxes[alive], offset) > iou_threshold
            alive = alive[~suppressed.any(dim=0)]
    return order[torch.cat(kept)] if kept else order


def _overlap(boxes, others, offset):
    """IoU of every box (n, 4) with every other (m, 4), shape (n, m)."""
    top_left = torch.maximum(boxes[:, None, :2], others[:, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(dim=-1)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(dim=-1)
    other_areas = (others[:, 2:] - others[:, :2] + offset).prod(dim=-1)
    return intersection / (areas[:, None] + other_areas - intersection)


def _greedy(overlaps):
    """Rows that survive when each surviving row removes the later rows it overlaps."""
    keep = np.ones(len(overlaps), dtype=bool)
    for row in range(len(overlaps)):
        if keep[row]:
            keep[row + 1 :] &= ~overlaps[row, row + 1 :]
    return torch.from_numpy(keep.nonzero()[0])


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS (https://arxiv.org/abs/1704.04503): overlapping boxes lose score.

    Args:
        boxes (Tensor): Absolute boxes on the CPU, shape (n, 4), ordered (x1, y1, x2, y2).
        scores (Tensor): Scores, shape (n,).
        dets (Tensor): Output buffer, shape (n, 5): the kept boxes with their new scores.
        iou_threshold (float): The naive and linear methods touch boxes with at least this IoU.
        sigma (float): Width of the gaussian method.
        min_score (float): Boxes whose score falls below it are dropped.
        method (int): 0 naive (plain suppression), 1 linear, 2 gaussian.
        offset (int): 0 or 1; the width of a box is ``x2 - x1 + offset``.

    Returns:
        Tensor: Indices of the kept boxes in the order of selection, shape (m,), int64; the first m
        rows of ``dets`` belong to them.
    """
    rest = np.concatenate([boxes.detach().numpy(), scores.detach().numpy()[:, None]], axis=1)
    indices = np.arange(len(rest))
    count = len(rest)
    first = 0
    while first < count:
        best = first + int(rest[first:count, 4].argmax())
        rest[[first, best]] = rest[[best, first]]
        indices[[first, best]] = indices[[best, first]]
        later = slice(first + 1, count)
        iou = _overlap(
            torch.from_numpy(rest[first : first + 1, :4]), torch.from_numpy(rest[later, :4]), offset
        )[0].numpy()
        if method == 0:
            weights = np.where(iou >= iou_threshold, 0, 1)
        elif method == 1:
            weights = np.where(iou >= iou_threshold, 1 - iou, 1)
        else:
            weights = np.exp(-(iou**2) / sigma)
        rest[later, 4] *= weights.astype(rest.dtype)
        first += 1
        # A dropped box is replaced by the last one: the compiled op does so, and the order of the
        # rest decides between equal scores.
        position = first
        while position < count:
            if rest[position, 4] < min_score:
                count -= 1
                rest[position], indices[position] = rest[count], indices[count]
            else:
                position += 1
    dets[:count] = torch.from_numpy(rest[:count]).to(dets)
    return torch.from_numpy(indices[:count])


def ms_deform_attn_forward(
    value,
    value_spatial_shapes,
    value_level_start_index,
    sampling_locations,
    attention_weights,
    im2col_step,
):
    """Multi-scale deformable attention (https://arxiv.org/abs/2010.04159).

    Args:
        value (Tensor): Shape (bs, num_keys, num_heads, head_dims).
        value_spatial_shapes (Tensor): (height, width) of each level, shape (num_levels, 2).
        value_level_start_index (Tensor): Not used; the levels follow each other in ``value``.
        sampling_locations (Tensor): Shape (bs, num_queries, num_heads, num_levels, num_points, 2),
            ordered (x, y), relative to the level, in [0, 1] inside it.
        attention_weights (Tensor): Shape (bs, num_queries, num_heads, num_levels, num_points).
        im2col_step (int): Not used; it divides the work of the compiled kernel.

    Returns:
        Tensor: Shape (bs, num_queries, num_heads * head_dims).
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = value_spatial_shapes.tolist()
    return multi_scale_deformable_attn_pytorch(value, shapes, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value,
    value_spatial_shapes,
    value_level_start_index,
    sampling_locations,
    attention_weights,
    grad_output,
    grad_value,
    grad_sampling_loc,
    grad_attn_weight,
    im2col_step,
):
    """Gradients of :func:`ms_deform_attn_forward`, written into the ``grad_*`` buffers."""
    inputs = [x.detach().requires_grad_() for x in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            inputs[0],
            value_spatial_shapes,
            value_level_start_index,
            inputs[1],
            inputs[2],
            im2col_step,
        )
    gradients = torch.autograd.grad(output, inputs, grad_output.view_as(output))
    for buffer, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients):
        buffer.copy_(gradient)


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Focal loss (https://arxiv.org/abs/1708.02002) of each logit, written into ``output``.

    Args:
        input (Tensor): Logits, shape (n, num_classes).
        target (Tensor): Class of each row, shape (n,), int64; ``num_classes`` is background.
        weight (Tensor): Weight of each target class, shape (num_classes,), or empty for none.
            Background rows keep weight 1.
        output (Tensor): Output buffer of the shape of ``input``.
        gamma (float): Exponent of the modulating factor.
        alpha (float): Weight of the positive logits; the negative ones have ``1 - alpha``.
    """
    positive = _one_hot(input, target)
    p = input.sigmoid()
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * F.logsigmoid(input),
        -(1 - alpha) * p**gamma * F.logsigmoid(-input),
    )
    output.copy_(loss * _row_weights(input, target, weight))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    """Gradient of :func:`sigmoid_focal_loss_forward`, written into ``grad_input``."""
    positive = _one_hot(input, target)
    p = input.sigmoid()
    # d/dx of -(1-p)^g log p and of -p^g log(1-p), with dp/dx = p (1-p)
    gradient = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * F.logsigmoid(input)),
        (1 - alpha) * p**gamma * (p - gamma * (1 - p) * F.logsigmoid(-input)),
    )
    grad_input.copy_(gradient * _row_weights(input, target, weight))


def _one_hot(input, target):
    return target[:, None] == torch.arange(input.size(1), device=input.device)


def _row_weights(input, target, weight):
    if weight.numel() == 0:
        return 1
    return torch.cat([weight, weight.new_ones(1)])[target][:, None]


def get_compiler_version():
    return 'none (PyTorch substitute for mmcv-lite)'


def get_compiling_cuda_version():
    return 'not available'


def __getattr__(name):
    # Every op that mmcv looks for must exist; names with an underscore are Python's own questions.
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing_op(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv's op '{name}' is compiled code, and this environment has mmcv-lite, which does "
            'not contain it. Either choose a model or an option that does without it, or replace '
            'mmcv-lite by full mmcv of the same version:\n'
            '  pip uninstall -y mmcv-lite\n'
            '  mim install "mmcv>=2.0.0,<2.2.0"\n'
            '(where no ready-made mmcv exists for your PyTorch, compile it: '
            'MMCV_WITH_OPS=1 pip install --no-build-isolation "mmcv>=2.0.0,<2.2.0").'
        )

    missing_op.__name__ = name
    return missing_op
