"""From a rule to a plan: one path of nested widths for a network, and the exact search along it for a budget.

Every rule orders the widths of all groups on one *path*, from the narrowest network to the widest. Costs change only at its
steps, so bisection over the steps finds the widest plan of the path that fits a budget, with no tolerance.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from slimlib.arguments import flag, share
from slimlib.cost import UNITS, CostModel
from slimlib.errors import SlimlibError, counted
from slimlib.filling import fill_up
from slimlib.layout import Group, Layout
from slimlib.plans import BOUND_BY_RANK, WidthPlan
from slimlib.spectrum import TOLERANCE
from slimlib.steps import Curves, Removals

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class WidthPath:
    """All the plans of one rule for one network, narrowest first; every budget is answered from it."""

    rule: str
    coupling: str
    groups: tuple[Group, ...]
    steps: Curves | Removals
    costs: CostModel
    layout: Layout
    min_width: int = 1
    round_to: int = 1
    drawn: bool = False  # whether the rule has read a seed: with another, the path may be another

    def __repr__(self) -> str:
        return (f"WidthPath(rule={self.rule!r}, coupling={self.coupling!r}, {len(self)} plans of "
                f"{counted(len(self.groups), 'group')})")

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def full(self) -> np.ndarray:
        """Widths of the dense network, in the order of ``groups``."""
        return np.array([g.width for g in self.groups])

    @cached_property
    def granules(self) -> np.ndarray:
        """What the width of each group is a multiple of, where it is not whole."""
        return np.array([np.lcm(g.blocks, self.round_to) for g in self.groups])

    def widths(self, step: int) -> np.ndarray:
        """Widths of all groups at a step, int, in the order of ``groups``: rounded up, so they never shrink along the path."""
        if not 0 <= step < len(self):
            raise SlimlibError(f"step={step} is not on the path, whose steps are 0 to {len(self) - 1}")
        return self._rounded(self.steps.widths(step))

    def plan(self, *, keep_macs: float | None = None, keep_params: float | None = None,
             threshold: float | None = None, fill: bool = False) -> WidthPlan:
        """The widest plan within a budget (share of the dense cost to keep), or the plan at a threshold.

        Exactly one of the three is given, in (0, 1]. ``fill`` spends what the widest plan leaves of a budget, beside the path
        (:func:`~slimlib.filling.fill_up`), so that plans of rules with coarse steps cost the same, and goes on beyond the end of
        a path that ends below the budget; a threshold leaves nothing to fill, and both together are refused. Raises SlimlibError
        when the budget is below the narrowest plan. Warns (UserWarning) when the path ends below the budget, because the rank
        of the filters bounds what PCA can keep.
        """
        return self._planned(keep_macs, keep_params, threshold, fill)

    def _planned(self, keep_macs: float | None, keep_params: float | None, threshold: float | None, fill: bool) -> WidthPlan:
        """:meth:`plan`, for the functions that users call: a warning names the line that called the caller of this."""
        given = {n: v for n, v in (("keep_macs", keep_macs), ("keep_params", keep_params), ("threshold", threshold))
                 if v is not None}
        if len(given) != 1:
            raise SlimlibError(f"give exactly one of keep_macs, keep_params and threshold, not {sorted(given) or 'none'}")
        (name, value), = given.items()
        value, fill = share(name, value), flag("fill", fill)
        if name == "threshold":
            if fill:
                raise SlimlibError(f"fill=True with threshold={value}: a threshold leaves no budget to fill; give keep_macs or "
                                   "keep_params, or leave fill out")
            return self._plan_at_threshold(value)
        unit = name.removeprefix("keep_")
        full = self.full
        budget = int(value * int(self.costs.cost(unit, full)) * (1 + TOLERANCE))
        step = self._widest(unit, budget)
        if step < 0:
            raise SlimlibError(self._unreachable(name, value, unit, budget))
        widths = self.widths(step)
        if fill:
            widths = fill_up(widths, self.widths(0), full, self.granules, self.steps, self.costs, unit, budget)
        plan = self.plan_of(widths, self.steps.level(step), step)
        if plan.wider is None and plan.rank_bound:
            reached = int(self.costs.cost(unit, self.widths(step))) / int(self.costs.cost(unit, full))
            some = ", ".join(f"{n} at most {k} of {plan.full_widths[n]}" for n, k in list(plan.rank_bound.items())[:3])
            then = f"filled beyond it, to {getattr(plan, name):.4f}" if fill else "fill=True goes beyond it"
            groups, of = counted(len(plan.rank_bound), "group"), BOUND_BY_RANK.get(self.rule)
            why = f"the rank of the {of} bounds {groups}" if of else f"it gives no more to {groups}"
            warnings.warn(f"{name}={value}: rule {self.rule!r} reaches its widest plan at {reached:.4f}, because {why} ({some}); "
                          f"{then}", stacklevel=3)
        return plan

    def table(self) -> pd.DataFrame:
        """The path as a DataFrame: level, kept shares of parameters and MACs, and every group's width; one row a step."""
        import pandas as pd

        widths = np.array([self.widths(step) for step in range(len(self))])
        rows = {"level": [self.steps.level(step) for step in range(len(self))]}
        for unit in ("params", "macs"):
            rows[unit] = self.costs.cost(unit, widths) / self.costs.cost(unit, self.full)
        return pd.DataFrame(rows | {g.name: widths[:, j] for j, g in enumerate(self.groups)})

    def _rounded(self, widths: np.ndarray) -> np.ndarray:
        wanted = np.maximum(widths, self.min_width)
        return np.minimum(-(-wanted // self.granules) * self.granules, self.full)

    def _widest(self, unit: str, budget: int) -> int:
        """The last step whose cost is within ``budget``, or -1. Costs never fall along the path, so bisection is exact."""
        low, high = -1, len(self) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.costs.cost(unit, self.widths(middle)) <= budget:
                low = middle
            else:
                high = middle - 1
        return low

    def _unreachable(self, name: str, value: float, unit: str, budget: int) -> str:
        """The least share that can be asked for, and what stands in the way: limits that the caller set, layers left whole."""
        dense, least = (int(self.costs.cost(unit, w)) for w in (self.full, self.widths(0)))
        unlimited = int(self.costs.cost(unit, replace(self, min_width=1, round_to=1).widths(0)))
        reasons, remedies = [], ["ask for at least that"]
        if unlimited < least:
            limits = {n: v for n, v in (("min_width", self.min_width), ("round_to", self.round_to)) if v > 1}
            reasons.append("no layer may be narrower under " + " and ".join(f"{n}={v}" for n, v in limits.items()))
            remedies.append(f"lower {' or '.join(limits)}")
        if unlimited > budget:
            whole = self.layout.whole(self.coupling)
            some = "; ".join(f"{n}: {why}" for n, why in list(whole.items())[:2])
            reasons.append(f"{counted(len(whole), 'layer')} stay{'s' * (len(whole) == 1)} whole ({some})")
            remedies += ["give coupling='joint'"] * (len(self.layout.slimmable("joint")) > len(self.groups))
        reachable = ceil(1e4 * least / dense) / 1e4  # rounded up, so that it can be asked for
        return (f"{name}={value} cannot be reached: the narrowest plan of rule {self.rule!r} with coupling {self.coupling!r} "
                f"keeps {reachable:.4f}, as {', and '.join(reasons)}; {', or '.join(remedies)}")

    def _plan_at_threshold(self, threshold: float) -> WidthPlan:
        if not getattr(self.steps, "level_is_share", False):
            raise SlimlibError(f"threshold={threshold}: rule {self.rule!r} has no threshold; give keep_macs or keep_params")
        step = int(np.searchsorted(self.steps.levels, threshold * (1 - TOLERANCE)))
        return self.plan_of(self._rounded(self.steps.at(threshold)), threshold, min(step, len(self) - 1))

    def plan_of(self, widths: np.ndarray, level: float | None = None, step: int = 0) -> WidthPlan:
        """The plan with these widths, in the order of ``groups``; ``step`` of the path, from which the next wider is sought.

        Raises SlimlibError for widths that are not whole numbers from 1 to the full ones, one a group."""
        full, name, widths = self.full, [g.name for g in self.groups], np.asarray(widths)
        if widths.shape != full.shape or widths.dtype.kind not in "iu" or (widths < 1).any() or (widths > full).any():
            raise SlimlibError(f"widths={widths.tolist()} must be whole numbers, one a group, from 1 to {full.tolist()}")
        widest = self.widths(len(self) - 1)
        bound = {g.name: int(k) for g, k in zip(self.groups, widest, strict=True) if k < g.width}
        return WidthPlan(
            rule=self.rule, coupling=self.coupling, threshold=level,
            widths=dict(zip(name, widths.tolist(), strict=True)), full_widths=dict(zip(name, full.tolist(), strict=True)),
            params=int(self.costs.params(widths)), macs=int(self.costs.macs(widths)),
            full_params=int(self.costs.params(full)), full_macs=int(self.costs.macs(full)),
            wider=self._next_wider(widths, step), whole=self.layout.whole(self.coupling), rank_bound=bound,
            input_shape=self.layout.example_shape, input_dtype=self.layout.example_dtype, layout=self.layout,
        )

    def _next_wider(self, widths: np.ndarray, step: int) -> dict[str, int] | None:
        """The costs of the first plan behind ``step`` that has other widths, or None: rounding makes many steps alike."""
        for later in range(step + 1, len(self)):
            if not np.array_equal(wider := self.widths(later), widths):
                return {unit: int(self.costs.cost(unit, wider)) for unit in UNITS}
        return None
