"""Spend a budget that the steps of a path cannot meet closely.

Where a path widens many groups at once, or where a network has few and dear channels, the widest plan that fits can leave a
tenth of the budget. A comparison of rules at equal budgets must not be decided by that, so the study fills all plans up.
"""

from __future__ import annotations

import numpy as np

from slimlib.cost import CostModel
from slimlib.steps import Curves, Removals

LEFT_OVER = 0.01
"""Share of the budget that may be left before one group's channel is paid for by another's."""


def fill_up(widths: np.ndarray, least: np.ndarray, full: np.ndarray, granules: np.ndarray, steps: Curves | Removals,
            costs: CostModel, unit: str, budget: int) -> np.ndarray:
    """Widths that cost at most ``budget`` and leave no room for one more granule of channels.

    Groups widen in the order in which the path would widen them, each as long as it fits. If more than a hundredth of the
    budget is left then, the group that is due next gets its channels all the same, and the group with the cheapest channels
    pays for them with its own, of which it keeps at least ``least``. All arrays are int, of shape (groups,); ``granules`` is
    by how many channels a group widens.
    """
    filled = _with_all_that_fits(widths, full, granules, steps, costs, unit, budget)
    due = steps.next_steps(filled)
    for g in np.argsort(due, kind="stable"):
        if costs.cost(unit, filled) >= (1 - LEFT_OVER) * budget or not np.isfinite(due[g]):
            break
        paid = _paid_for(_widened(filled, g, full, granules), g, least, granules, costs, unit, budget)
        if costs.cost(unit, filled) < costs.cost(unit, paid) <= budget:
            filled = _with_all_that_fits(paid, full, granules, steps, costs, unit, budget)
            due = steps.next_steps(filled)
    return filled


def _with_all_that_fits(widths, full, granules, steps, costs, unit, budget) -> np.ndarray:
    """A group that does not fit never fits later: its channels only get dearer when its neighbours widen."""
    due = steps.next_steps(widths).astype(float)
    while np.isfinite(due).any():
        g = int(np.argmin(due))
        wider = _widened(widths, g, full, granules)
        fits = costs.cost(unit, wider) <= budget
        widths = wider if fits else widths
        due[g] = steps.next_steps(widths)[g] if fits else np.inf
    return widths


def _widened(widths: np.ndarray, g: int, full: np.ndarray, granules: np.ndarray) -> np.ndarray:
    wider = widths.copy()
    wider[g] = min(wider[g] + granules[g], full[g])
    return wider


def _paid_for(widths, g, least, granules, costs, unit, budget) -> np.ndarray:
    """The group with the cheapest channels, other than ``g``, narrowed until the widths fit or it has but its least."""
    price = np.where(widths > least, costs.saved_by_one(unit, widths.astype(float)) * granules, np.inf)
    price[g] = np.inf
    payer, widths = int(np.argmin(price)), widths.copy()
    while costs.cost(unit, widths) > budget and np.isfinite(price[payer]) and widths[payer] > least[payer]:
        widths[payer] = max(least[payer], (widths[payer] - 1) // granules[payer] * granules[payer])
    return widths
