"""What it would take for a comparison to be judged otherwise: found by judging its claim again with this comparison changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from scipy import stats

from slimlib.study.claims import Claim
from slimlib.study.deciding import as_a_whole, decide
from slimlib.study.names import counted
from slimlib.study.statistics import INCONCLUSIVE, SUPPORTED, t_test

TOO_MANY = 1000
"""Seeds beyond which it is said that no practical number would do."""

Rows = Sequence[Mapping[str, Any]]
"""All deciding comparisons of a claim: they are judged together, as Holm's correction is over all."""


def would_change(claim: Claim, rows: Rows, at: int) -> str:
    """What would change the verdict on comparison `at`, the others staying as they are."""
    row = rows[at]
    if claim.kind == "paired" and row["n"] < claim.min_seeds:
        return f"{counted(claim.min_seeds - int(row['n']), 'more seed')} to be judged at all"
    if row["verdict"] == INCONCLUSIVE:
        return _open_rank(claim, row) if claim.kind == "rank" else _more_seeds(claim, rows, at)
    if claim.kind == "paired" and row["mean"] == 0 == row["sd"]:
        return "other widths: here the two rules lead to the same accuracy in every seed"
    way, by = "lower" if row["verdict"] == SUPPORTED else "higher", least_shift(claim, rows, at)
    if claim.kind == "rank":
        return f"a coefficient {way} by about {by:.2f}, at the same spread"
    return f"a mean {way} by {100 * by:.2f} points, at the same spread"


def with_all_planned(claim: Claim, rows: Rows, planned: int) -> tuple[dict[int, str], str]:
    """What would be otherwise if all ``planned`` comparisons counted, those of profiles without a record too: {place: verdict} of
    the comparisons whose verdict changes, as Holm's p does, and the verdict on the whole claim."""
    found = [verdict for _, verdict in decide(claim, [{**row, "family": planned} for row in rows])]
    changed = {at: verdict for at, verdict in enumerate(found) if verdict != rows[at]["verdict"]}
    return changed, as_a_whole(found, planned)


def nearest(claim: Claim, rows: Rows) -> list[int]:
    """The comparisons whose verdict would change first: that of those left open, by seeds or p, and that of those decided, by the
    size of the effect. Either may be missing."""
    still_open = [at for at, row in enumerate(rows) if row["verdict"] == INCONCLUSIVE]
    decided = [at for at in range(len(rows)) if at not in still_open]
    found = []
    if still_open and claim.kind == "rank":
        found.append(min(still_open, key=lambda at: _last_if_missing(rows[at]["p"])))
    elif still_open:
        found.append(min(still_open, key=lambda at: (least_seeds(claim, rows, at)[0], _last_if_missing(rows[at]["p"]))))
    return [*found, *([min(decided, key=lambda at: least_shift(claim, rows, at))] if decided else [])]


def least_shift(claim: Claim, rows: Rows, at: int) -> float:
    """By how much the effect would have to be lower (if supported) or higher (if not), its spread being what it is."""
    sign, within, beyond = -1.0 if rows[at]["verdict"] == SUPPORTED else 1.0, 0.0, 2.0  # no effect can move by more than 2
    while beyond - within > 1e-9:
        middle = (within + beyond) / 2
        moved = [*rows[:at], _shifted(claim, rows[at], sign * middle), *rows[at + 1 :]]
        if decide(claim, moved)[at][1] == rows[at]["verdict"]:
            within = middle
        else:
            beyond = middle
    return beyond


def least_seeds(claim: Claim, rows: Rows, at: int) -> tuple[int, str]:
    """The least number of seeds, at this mean and spread, with which an open comparison is decided, and how it then is."""
    row = rows[at]
    beyond = (TOO_MANY * 2**k for k in range(1, 40))
    for n in chain(range(max(int(row["n"]) + 1, claim.min_seeds), TOO_MANY + 1), beyond):
        repeated = _with_interval(claim, row, row["mean"], n)
        found = decide(claim, [*rows[:at], repeated, *rows[at + 1 :]])[at][1]
        if found != INCONCLUSIVE:
            return min(n, TOO_MANY + 1), found
    return TOO_MANY + 1, INCONCLUSIVE


def _more_seeds(claim: Claim, rows: Rows, at: int) -> str:
    seeds, found = least_seeds(claim, rows, at)
    told = f"more than {TOO_MANY:,}" if seeds > TOO_MANY else f"about {seeds:,}"
    return f"{told} seeds to be {found}, at this mean and spread"


def _open_rank(claim: Claim, row: Mapping[str, Any]) -> str:
    if row["low"] > 0:
        return f"a Holm-corrected p of at most {1 - claim.level:.2g}; it is {row['p_holm']:.2g}"
    return (f"an interval above 0 or below {claim.margin:g}, which takes more layers, so other networks; more images only "
            "sharpen the drops")


def _shifted(claim: Claim, row: Mapping[str, Any], by: float) -> dict[str, Any]:
    if claim.kind == "paired":
        return _with_interval(claim, row, row["mean"] + by, int(row["n"]))
    rho = min(max(row["spearman"] + by, -1.0), 1.0)
    # other layers than those there are cannot be permuted: the p of a coefficient of this size, by Student's t
    t = abs(rho) * ((row["n"] - 2) / max(1 - rho**2, 1e-12)) ** 0.5
    return {**row, "low": row["low"] + by, "high": row["high"] + by, "p": 2 * float(stats.t.sf(t, row["n"] - 2))}


def _with_interval(claim: Claim, row: Mapping[str, Any], mean: float, n: int) -> dict[str, Any]:
    """The comparison with another mean or number of seeds, its standard deviation as it is."""
    low, high, p = t_test(mean, row["sd"], n, claim.level)
    return {**row, "n": n, "mean": mean, "low": low, "high": high, "p": p}


def _last_if_missing(p: float) -> float:
    return p if p == p else float("inf")
