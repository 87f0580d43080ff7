"""Names beside points and below panels, where they cover nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimlib.study.figures.style import BLACK, GREY

TOWARDS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1), (0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1))
"""Directions in which a name may stand from its point, those that are tried first in front."""
NAMES = 4
"""To meet another name is as bad as to meet so many marks or lines."""


def place_labels(axis: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Name points of a finished panel so that no name leaves the panel, covers a mark or meets another name.

    Each name goes to the first free place around its point, the nearest first, from the topmost point down; where none is
    free, to the place in the panel that meets least. A name that had to move off is tied to its point by a thin line.

    points   {name: (x, y)} in data coordinates
    """
    from matplotlib.transforms import Bbox

    fig = axis.figure
    fig.draw_without_rendering()  # the layout decides where points come to lie
    frame, scale = axis.get_window_extent(), fig.dpi / 72
    drawn = [axis.transData.transform(np.column_stack(line.get_data(orig=False))) for line in axis.lines]
    marks = [Bbox.from_bounds(x - 3.5 * scale, y - 3.5 * scale, 7 * scale, 7 * scale) for x, y in np.concatenate(drawn)]
    taken: list[Bbox] = []
    ties: list[Bbox] = []  # places along the lines to names that had to move off
    for told, point in sorted(points.items(), key=lambda item: -item[1][1]):
        text = axis.annotate(told, point, xytext=(0, 0), textcoords="offset points", fontsize=8, color=BLACK)
        size = text.get_window_extent()
        found = []
        for away in (5, 12, 20, 30, 42, 56, 72):
            for dx, dy in TOWARDS:
                left = (dx - 1) * size.width / 2 + dx * away * scale
                low = (dy - 1) * size.height / 2 + dy * away * scale
                box = size.translated(left, low)
                outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
                start, steps = axis.transData.transform(point), 12 if away > 5 else 0
                tie = [Bbox([at, at]) for at in np.linspace(start, np.clip(start, box.min, box.max), steps)[1:-1]]
                met = sum(box.overlaps(other) for other in (*marks, *ties)) + NAMES * sum(map(box.overlaps, taken))
                met += any(at.overlaps(other) for at in tie for other in taken)
                found.append((outside, met, len(found), away, left / scale, low / scale, box, tie))
        *_, away, left, low, box, tie = min(found, key=lambda place: place[:3])
        text.set_position((left, low))
        taken.append(box)
        ties += tie
        if away > 5:
            nearest = np.clip(0, left, left + size.width / scale), np.clip(0, low, low + size.height / scale)
            axis.annotate("", point, xytext=nearest, textcoords="offset points",
                          arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3})


def layer_ticks(axis: Any, layers: Sequence[str], whole_width: bool = False) -> None:
    """Name the layers below a panel that has one place for each: side by side where that fits, else upwards; smaller where there
    are many, and in a narrow panel every second one.

    whole_width   the panel is as wide as the text: it has room for names side by side, and for larger ones
    """
    fits, many = whole_width and sum(map(len, layers)) <= 70, len(layers) > 16  # characters; layers
    told = [layer if not many or whole_width or place % 2 == 0 else "" for place, layer in enumerate(layers)]
    axis.set_xticks(range(len(layers)), told, rotation=0 if fits else 90, fontsize=7 if many else 8)
    axis.grid(False, axis="x")
