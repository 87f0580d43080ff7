"""Which records are compared with which: two arms of one network, stage, criterion and budget, seed by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from slimlib.errors import SlimlibError
from slimlib.study.names import is_arm, weight_free_power
from slimlib.study.statistics import ACCURACY_DIGITS, SEEDS_FOR_INTERVAL, paired

if TYPE_CHECKING:
    import pandas as pd

    from slimlib.study.runs import Run

CELL = ("dataset", "model", "stage", "criterion", "budget")
"""What two runs must share, besides the seed, to be paired."""

ALIKE = ("recipe", "dense_recipe", "distill", "data_sha256", "dense_sha256", "dense_test_accuracy")
"""What else the arms of a cell and seed share wherever it is known, if their difference is to be that of their widths."""


def differences(frame: pd.DataFrame, ours: str, rival: str, metric: str = "test_accuracy") -> pd.DataFrame:
    """One row a cell and seed for which both arms are recorded: `difference` = ours - rival, and both keys.

    frame   of `slimlib.study.to_frame`; `ours` and `rival` are values of its column `arm`

    Raises SlimlibError where an arm is there twice, and where the two were trained in different ways (`ALIKE`).
    """
    columns = [*CELL, "budget_kind", "seed", metric, "key"]
    sides = []
    for arm in (ours, rival):
        side = frame.loc[frame["arm"] == arm, columns]
        twice = side.duplicated([*CELL, "seed"], keep=False)
        if twice.any():
            keys = ", ".join(side.loc[twice, "key"])
            raise SlimlibError(f"arm {arm!r} has more than one record of one cell and seed ({keys}): choose the runs of one "
                               "recipe, or, where both are of one, remove the file that is a copy")
        # A missing criterion (students have none) must still find its partner, and nan equals nothing.
        sides.append(side.fillna({"criterion": "none"}))
    _refuse_unlike(frame[frame["arm"].isin([ours, rival])])
    both = sides[0].merge(sides[1], on=[*CELL, "budget_kind", "seed"], suffixes=("_ours", "_rival"))
    both["difference"] = both[f"{metric}_ours"] - both[f"{metric}_rival"]
    return both


def _refuse_unlike(rows: pd.DataFrame) -> None:
    """Arms of one cell and seed differ in their widths and in what follows from them, or they are no pair."""
    known = [name for name in ALIKE if name in rows]  # frames of `slimlib.compare` tell none of these
    cells = rows.groupby([*CELL, "seed"], dropna=False)
    if not known or not (cells[known].nunique() > 1).any(axis=None):
        return
    for _, cell in cells:
        for what in known:
            first, *others = cell.dropna(subset=[what]).drop_duplicates(what).to_dict("records") or [None]
            if others:
                raise SlimlibError(
                    f"{first['arm']} ({first['key']}) and {others[0]['arm']} ({others[0]['key']}), seed {first['seed']}, are no "
                    f"pair: their {what} differ, {first[what]} and {others[0][what]}; compare runs of one {what}"
                )


def on_shared_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a frame of one cell, the arms that have most seeds, on the seeds that all of these have: means over other seeds would be
    no fair ranking, and an arm that has just begun would leave one seed to rank by."""
    seeds = frame.groupby("arm")["seed"].nunique()
    whole = frame[frame["arm"].isin(seeds.index[seeds == seeds.max()])]
    arms = whole.groupby("seed")["arm"].nunique()
    return whole[whole["seed"].isin(arms.index[arms == whole["arm"].nunique()])]


def averaged_over_budgets(paired_rows: pd.DataFrame, budgets: Sequence[str] | None = None) -> np.ndarray:
    """One difference a seed: the mean over budgets, of those seeds that have every budget.

    budgets   those that count; None means all that occur
    """
    wide = paired_rows.groupby(["seed", "budget"])["difference"].mean().unstack()
    if budgets is not None:
        wide = wide.reindex(columns=list(budgets))
    return wide.dropna().mean(axis=1).to_numpy()


def with_best_tilt(frame: pd.DataFrame, planned: Iterable[Run]) -> pd.DataFrame:
    """The frame with an arm "best_tilt" added: in each cell the tilt with the best mean validation accuracy over seeds.

    `uniform` is the tilt of power 0 and competes. Of equal ones the power nearest 0 is taken, of two such the lower one. Test
    images have no say in the choice. Beside it stand the tilt that came second, the mean lead over it in validation accuracy, and
    the standard error of that lead over seeds.

    planned  the runs that there should be: where a tilt of theirs has no record yet, the best of the others is not the best,
             and would be too easy to beat, so such a cell has none; and only seeds that every tilt has count
    """
    import pandas as pd

    competing = defaultdict(set)
    for run in planned:
        if weight_free_power(run.arm) is not None:
            competing[tuple(getattr(run, axis) for axis in CELL)].add(run.arm)
    added = []
    for cell, tilts in competing.items():
        if len(tilts) == 1:
            continue  # nothing to choose from
        # a criterion may be None, which equals nothing in a frame
        here = np.logical_and.reduce([frame[axis].isna() if value is None else frame[axis] == value
                                      for axis, value in zip(CELL, cell, strict=True)])
        rows = frame[here & frame["arm"].isin(tilts)]
        if set(rows["arm"]) == tilts:
            seeds = set.intersection(*(set(one["seed"]) for _, one in rows.groupby("arm")))
            common = rows[rows["seed"].isin(seeds)]
            if not common.empty:
                _refuse_unlike(common)
                best, second = by_validation(common)[:2]
                by_seed = common.pivot_table(index="seed", columns="arm", values="val_accuracy")
                lead = by_seed[best] - by_seed[second]
                spread = lead.std(ddof=1) / len(lead) ** 0.5 if len(lead) > 1 else np.nan
                told = {"chosen": best, "second": second, "lead": lead.mean(), "lead_error": spread}
                added.append(common[common["arm"] == best].assign(arm="best_tilt", **told))
    return pd.concat([frame, *added], ignore_index=True) if added else frame


def by_validation(tilts: pd.DataFrame) -> list[str]:
    """The tilts of a cell by their mean validation accuracy, best first; of equal ones the power nearest 0, then the lower."""
    means = tilts.groupby("arm")["val_accuracy"].mean().round(ACCURACY_DIGITS)
    powers = {arm: weight_free_power(arm) for arm in means.index}
    return sorted(means.index, key=lambda arm: (-means[arm], abs(powers[arm]), powers[arm]))


def against(frame: pd.DataFrame, reference: str = "uniform", metric: str = "test_accuracy", level: float = 0.95) -> pd.DataFrame:
    """Every arm of a frame against one reference, budget by budget: `Paired` as columns, one row a cell and arm.

    frame   of `slimlib.study.to_frame`; columns of CELL, arm, n, mean, low, high, ... come back, keys of the runs last

    Empty while the reference has no run yet. Raises SlimlibError for one that is neither in the frame nor a rule of the book.
    """
    import pandas as pd

    if len(frame) and reference not in set(frame["arm"]) and not is_arm(reference):
        there = ", ".join(dict.fromkeys(frame["arm"].dropna()))
        raise SlimlibError(f"reference={reference!r} is no arm; there are {there}")
    rows = []
    for arm in dict.fromkeys(frame["arm"]) if len(frame) else ():
        if arm == reference:
            continue
        pairs = differences(frame, arm, reference, metric)
        for cell, part in pairs.groupby(list(CELL), sort=False, dropna=False):
            found = paired(part["difference"], level).to_dict()
            keys = ", ".join([*part["key_ours"], *part["key_rival"]])
            sides = {"arm": arm, "reference": reference, "level": level}
            rows.append({**dict(zip(CELL, cell, strict=True)), **sides, **found, "keys": keys})
    columns = [*CELL, "arm", "reference", "level", "n", "mean", "sd", "low", "high", "boot_low", "boot_high", "p", "agree",
               "keys"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def left_by_pairing(frame: pd.DataFrame, reference: str = "uniform") -> tuple[float, int]:
    """What the variance over seeds of a difference from the reference in test accuracy is, as a share of that of runs with
    nothing in common: the median over all cells and arms with three seeds or more, and their number. Below 1 where chance that
    both share cancels.

    frame   of `slimlib.study.to_frame`; (nan, 0) comes back where nothing can be compared
    """
    shares = []
    for arm in dict.fromkeys(frame["arm"]) if len(frame) else ():
        for _, part in differences(frame, arm, reference).groupby(list(CELL)) if arm != reference else ():
            apart = part["test_accuracy_ours"].var() + part["test_accuracy_rival"].var()
            if len(part) >= SEEDS_FOR_INTERVAL and apart:
                shares.append(part["difference"].var() / apart)
    return float(np.median(shares)) if shares else float("nan"), len(shares)
