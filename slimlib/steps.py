"""The steps of a path: what a rule returns. Widths never shrink from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from slimlib.spectrum import TOLERANCE


@dataclass(frozen=True, eq=False)
class Curves:
    """Steps of a rule with one level for the whole network: each group gets the least width that suffices at the level.

    ``breaks[g][k - 1]`` is the highest level at which width k suffices for group g; ascending. For PCA it is the cumulative
    contribution r_k, so the level is the threshold. ``level_is_share`` says whether a level is a share in (0, 1] that a user
    may ask for as a threshold.
    """

    breaks: tuple[np.ndarray, ...]
    level_is_share: bool = True

    def __post_init__(self):
        object.__setattr__(self, "breaks", tuple(np.asarray(b, float) for b in self.breaks))

    @cached_property
    def levels(self) -> np.ndarray:
        """The level of each step, ascending: every finite break once."""
        finite = np.concatenate([b[np.isfinite(b)] for b in self.breaks] or [np.zeros(0)])
        return np.unique(finite) if finite.size else np.zeros(1)

    def __len__(self) -> int:
        return len(self.levels)

    def fault(self, full: np.ndarray) -> str:
        """What keeps these curves from being a path for groups of the widths ``full``; empty if nothing does."""
        if len(self.breaks) != len(full):
            return f"{len(self.breaks)} curves for {len(full)} groups"
        for g, (b, n) in enumerate(zip(self.breaks, full, strict=True)):
            if len(b) != n:
                return f"a curve of {len(b)} levels for group {g}, which has {n} filters"
            if np.isnan(b).any() or (b[1:] < b[:-1]).any():
                return f"levels of group {g} that do not ascend"
        return ""

    def level(self, step: int) -> float:
        """The level of a step. Levels rise along the path, and a plan tells its own as its threshold."""
        return float(self.levels[step])

    def widths(self, step: int) -> np.ndarray:
        """Widths of all groups at a step, before ``min_width`` and ``round_to``: int, shape (groups,)."""
        return self.at(self.levels[step])

    def next_steps(self, widths: np.ndarray) -> np.ndarray:
        """The last step of those for which one channel more than ``widths`` suffices: the order in which filling widens groups.

        Channels beyond the rank of the filters all share the last step, although the path itself never gives them: there the
        share that a group has already is added, so that groups widen alike. Infinite where a group is whole, or one more
        suffices at no finite level.
        """
        wanted = np.array([b[w] if w < len(b) else np.inf for b, w in zip(self.breaks, widths, strict=True)])
        steps = np.searchsorted(self.levels, wanted).astype(float)
        # levels that differ from the last by rounding are the last
        last = np.searchsorted(self.levels, self.levels[-1] - abs(self.levels[-1]) * TOLERANCE)
        shares = np.array([w / len(b) for b, w in zip(self.breaks, widths, strict=True)])
        return np.where(np.isfinite(wanted), np.where(steps >= last, last + shares, steps), np.inf)

    def at(self, level: float) -> np.ndarray:
        """Widths of all groups at any level, also between steps: of each group the least that suffices, or all it has where none
        does. Levels that differ by rounding are equal (:data:`~slimlib.spectrum.TOLERANCE`)."""
        slack = level - abs(level) * TOLERANCE
        return np.array([min(int(np.searchsorted(b, slack)) + 1, len(b)) for b in self.breaks])


@dataclass(frozen=True, eq=False)
class Removals:
    """Steps of a rule that drops channels one at a time: ``order`` names the group that loses one, first drop first."""

    full: np.ndarray
    order: np.ndarray

    def __post_init__(self):  # a rule of one's own may well return lists
        object.__setattr__(self, "full", np.asarray(self.full))
        object.__setattr__(self, "order", np.asarray(self.order) if len(self.order) else np.zeros(0, int))

    def __len__(self) -> int:
        return len(self.order) + 1

    def fault(self, full: np.ndarray) -> str:
        """What keeps this order from being a path for groups of the widths ``full``; empty if nothing does."""
        order = self.order
        if not np.array_equal(self.full, full):
            return f"full widths {self.full.tolist()} for groups of {full.tolist()}"
        if order.ndim != 1:
            return f"an order of {order.ndim} dimensions"
        if order.size and (order.dtype.kind not in "iu" or order.min() < 0 or order.max() >= len(full)):
            return f"an order that names groups other than 0 to {len(full) - 1}"
        if (emptied := np.flatnonzero(np.bincount(order.astype(int), minlength=len(full)) >= full)).size:
            return f"an order that leaves group {emptied[0]} without a filter"
        return ""

    def level(self, step: int) -> None:
        """None: such a path has no scale of its own."""
        return None

    def widths(self, step: int) -> np.ndarray:
        """Widths of all groups when all drops but the last ``step`` are made: int, shape (groups,)."""
        return self.full - np.bincount(self.order[: len(self.order) - step], minlength=len(self.full))

    def next_steps(self, widths: np.ndarray) -> np.ndarray:
        """The step at which each group first gets one channel more than ``widths``; infinite where it never does."""
        drops = [np.flatnonzero(self.order == g) for g in range(len(self.full))]  # the i-th drop leaves full - i - 1 channels
        return np.array([len(self.order) - d[n - 1 - w] if w < n else np.inf
                         for d, n, w in zip(drops, self.full, widths, strict=True)])
