"""Which rule has the highest mean, said with what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slimlib.study import budgets
from slimlib.study.names import budget_name, in_order, joined, plain_name
from slimlib.study.pairing import on_shared_seeds
from slimlib.study.statistics import ACCURACY_DIGITS, SEEDS_FOR_INTERVAL, paired

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3
"""Arms that are not told apart from the highest; of more than these, their number is said."""


def highest(frame: pd.DataFrame, metric: str, level: float) -> str:
    """ "Highest mean: PCA (3AS) at 10 % of MACs; uniform at 40 % of MACs (not told apart from PCA (3AS))."

    Of the arms that have most seeds, over the seeds all of them have; below the seeds for an interval none is named. Told apart
    are those whose paired interval leaves out zero, each for itself.
    """
    best: dict[str, list[str]] = {}
    measured, left_out, few = frame.dropna(subset=[metric]), False, False
    for budget, cell in sorted(measured.groupby("budget"), key=lambda item: budgets.parse(item[0])):
        shared = on_shared_seeds(cell)
        if shared["seed"].nunique() < SEEDS_FOR_INTERVAL:
            few = True
            continue
        left_out |= len(shared) < len(cell)
        wide = shared.pivot_table(index="seed", columns="arm", values=metric)
        means = wide.mean().round(ACCURACY_DIGITS)  # equal ones may differ by the order of their sum
        first = in_order(means.index[means == means.max()])
        others = means.drop(first).index
        close = [arm for arm in others if paired(wide[first[0]] - wide[arm], level).low <= 0]
        doubt = f" (not told apart from {_named(close, len(others))})" if close else ""
        for arm in first:
            best.setdefault(plain_name(arm), []).append(budget_name(budget) + doubt)
    everywhere = measured["budget"].nunique()
    doubted = any("(" in one for of in best.values() for one in of)
    told = "; ".join(f"{arm} at {'every budget' if len(of) == everywhere > 1 and not doubted else joined(of)}"
                     for arm, of in best.items())
    too_few = f"Budgets with fewer than {SEEDS_FOR_INTERVAL} seeds rank no rule." if few else ""
    return " ".join(filter(None, [told and f"Highest mean{' of the rules that have most seeds' * left_out}: {told}.", too_few]))


def _named(arms: list[str], of: int) -> str:
    return joined(map(plain_name, in_order(arms))) if len(arms) <= NAMED else f"{len(arms)} of the {of} others"
