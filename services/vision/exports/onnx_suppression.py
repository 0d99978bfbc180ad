"""`suppression.suppressed` as an ONNX graph."""

import numpy as np
import onnx

from services.vision.card import Suppression
from services.vision.exports.merging import parsed
from services.vision.suppression import CONTENDERS

_KEEPS_ALL = -0.5  # for rules without a least score; what is no candidate has -1


def suppression_graph(rule: Suppression, categories: int) -> onnx.GraphProto:
    """From `all_boxes` [1, k, 1 or categories, 4] and `all_scores` [1, k, categories] to `boxes`, `scores`, `labels`.

    `inner_size` is the image's width and height inside the input, `image_size` its own.
    """
    # The operator keeps what exceeds its threshold, our rule what reaches it.
    least = np.nextafter(np.float32(rule.least_score), np.float32(-1)) if rule.least_score > 0 else _KEEPS_ALL
    numbers = {"ROWS": CONTENDERS * rule.most, "MOST": rule.most, "COUNT": categories, "IOU": rule.iou}
    text = _TEXT
    for name, value in {**numbers, "LEAST": np.format_float_scientific(least)}.items():
        text = text.replace(name, str(value))
    return parsed(text)


# So many rows of -1 follow the candidates that there are always enough of them.
_TEXT = """suppression (
    float[1, k, b, 4] all_boxes, float[1, k, c] all_scores, float[2] inner_size, float[2] image_size
) => (float[m, 4] boxes, float[m] scores, int64[m] labels)
<
    int64[1] rows = {ROWS}, int64[1] most = {MOST}, int64 count = {COUNT}, int64[2] row_shape = {ROWS, COUNT},
    int64 end = {ROWS}, float iou = {IOU}, float least = {LEAST}, float zero = {0.0}, float none = {-1.0},
    int64 first = {0}, int64 step = {1}, int64 third = {2}, int64[1] axis0 = {0}, int64[1] axis1 = {1},
    int64[1] two = {2}, int64[1] four = {4}, int64[1] flat = {-1}, int64[2] corners = {-1, 4}
>
{
    image_scores = Squeeze (all_scores, axis0)
    image_boxes = Squeeze (all_boxes, axis0)
    no_scores = ConstantOfShape <value = float[1] {-1.0}> (row_shape)
    padded_scores = Concat <axis = 0> (image_scores, no_scores)
    box_shape = Shape (image_boxes)
    per_row = Slice (box_shape, axis1, two)
    no_box_shape = Concat <axis = 0> (rows, per_row, four)
    no_boxes = ConstantOfShape <value = float[1] {0.0}> (no_box_shape)
    padded_boxes = Concat <axis = 0> (image_boxes, no_boxes)

    surest = ReduceMax <keepdims = 0> (padded_scores, axis1)
    row_maxima, best_rows = TopK (surest, rows)
    row_scores = Gather (padded_scores, best_rows)
    row_boxes = Gather (padded_boxes, best_rows)
    pair_scores = Reshape (row_scores, flat)
    chosen, pairs = TopK (pair_scores, rows)
    pair_labels = Mod (pairs, count)
    pair_rows = Div (pairs, count)
    own_boxes = Mul (pair_rows, per_row)
    place = Mod (pair_labels, per_row)
    box_indices = Add (own_boxes, place)
    flat_boxes = Reshape (row_boxes, corners)
    pair_boxes = Gather (flat_boxes, box_indices)

    scale = Div (inner_size, image_size)
    scales = Concat <axis = 0> (scale, scale)
    limits = Concat <axis = 0> (image_size, image_size)
    unclipped = Div (pair_boxes, scales)
    not_negative = Max (unclipped, zero)
    clipped = Min (not_negative, limits)
    top_left = Slice (clipped, axis0, two, axis1)
    bottom_right = Slice (clipped, two, four, axis1)
    sides = Sub (bottom_right, top_left)
    shortest = ReduceMin <keepdims = 0> (sides, axis1)
    real = Greater (shortest, zero)
    usable = Where (real, chosen, none)

    classes = Range (first, count, step)
    class_column = Unsqueeze (classes, axis1)
    own = Equal (class_column, pair_labels)
    by_class = Where (own, usable, none)
    class_scores = Unsqueeze (by_class, axis0)
    class_boxes = Unsqueeze (clipped, axis0)
    selected = NonMaxSuppression (class_boxes, class_scores, most, iou, least)
    ranks = Gather <axis = 1> (selected, third)
    beyond = ConstantOfShape <value = int64[1] {ROWS}> (most)
    padded_ranks = Concat <axis = 0> (ranks, beyond)
    best, order = TopK <largest = 0> (padded_ranks, most)
    within = Less (best, end)
    kept = Compress <axis = 0> (best, within)
    boxes = Gather (clipped, kept)
    scores = Gather (chosen, kept)
    labels = Gather (pair_labels, kept)
}"""
