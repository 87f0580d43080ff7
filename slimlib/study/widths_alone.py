"""What widths do by themselves: the gain over a reference among students, which inherit no weights, beside that after pruning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study.names import in_order, network_name, signed
from slimlib.study.pairing import differences
from slimlib.study.resampling import spearman
from slimlib.study.shapes import equal_where_shared
from slimlib.study.statistics import SEEDS_FOR_INTERVAL, paired

if TYPE_CHECKING:
    import pandas as pd

SIDES = ("pruned", "student")
CELL = ["dataset", "model", "budget"]
GAIN = ("", "_low", "_high")


def gains(
    pruned: pd.DataFrame,
    students: pd.DataFrame,
    records: Iterable[Mapping[str, Any]],
    reference: str = "uniform",
    criterion: str = "l1",
    level: float = 0.95,
) -> pd.DataFrame:
    """One row a network, budget and set of widths: the arm that first has them, and its gain over the reference at both stages.

    Only seeds count in which the arm had the same widths at both stages, and so had the reference; widths that equal the
    reference's in all of them are no row.

    pruned, students   of `to_frame`
    records            theirs, which have the widths
    criterion          of the pruned runs that count

    Columns dataset, model, budget, arm, reference, level, n, and the mean gain of each of SIDES, as a fraction, with the ends of
    its t interval: `pruned`, `pruned_low`, `pruned_high`, `student`, ...; the same of `less`, the gain after pruning less that
    of the students; last the keys of the runs.
    """
    import pandas as pd

    widths = {record["key"]: tuple(record["widths"].items()) for record in records if "widths" in record}
    rows, seen, arms = [], defaultdict(list), []
    if len(pruned) and len(students):
        pruned = pruned[pruned["criterion"] == criterion]
        arms = in_order(arm for arm in pruned["arm"] if arm != reference and arm in set(students["arm"]))
    for arm in arms:
        for cell, part in _alike(pruned, students, arm, reference, widths).groupby(CELL, sort=False):
            ours, theirs = (dict(zip(part["seed"], part[side], strict=True)) for side in ("ours", "rival"))
            if not any(equal_where_shared(ours, other) for other in (*seen[cell], theirs)):
                seen[cell].append(ours)
                row = {**dict(zip(CELL, cell, strict=True)), "arm": arm, "reference": reference, "level": level}
                rows.append(row | _gained(part, level))
    numbers = [f"{side}{end}" for side in (*SIDES, "less") for end in GAIN]
    return pd.DataFrame(rows, columns=[*CELL, "arm", "reference", "level", "n", *numbers, "keys"])


def _alike(pruned: pd.DataFrame, students: pd.DataFrame, arm: str, reference: str, widths: Mapping[str, Any]) -> pd.DataFrame:
    """The differences of both stages side by side, a row a seed in which the arm had the same widths in both, and so had the
    reference; `ours` and `rival` are those widths."""
    pairs = [differences(frame, arm, reference) for frame in (pruned, students)]
    both = pairs[0].merge(pairs[1], on=[*CELL, "seed"], suffixes=[f"_{side}" for side in SIDES])
    for who in ("ours", "rival"):
        shapes = [both[f"key_{who}_{side}"].map(widths) for side in SIDES]
        both = both.assign(**{who: shapes[0]})[shapes[0] == shapes[1]]
    return both.sort_values("seed", ignore_index=True)


def _gained(part: pd.DataFrame, level: float) -> dict[str, Any]:
    """The gains of one cell with their intervals, their number and the keys they rest on."""
    by_seed = {side: part[f"difference_{side}"] for side in SIDES}
    row: dict[str, Any] = {"n": len(part)}
    for side, of in (by_seed | {"less": by_seed["pruned"] - by_seed["student"]}).items():
        found = paired(of, level)
        row |= {f"{side}{end}": value for end, value in zip(GAIN, (found.mean, found.low, found.high), strict=True)}
    keys = [key for side in SIDES for who in ("ours", "rival") for key in part[f"key_{who}_{side}"]]
    return row | {"keys": ", ".join(keys)}


def told(table: pd.DataFrame) -> list[str]:
    """Sentences, one a network: of the widths whose gain or loss after pruning is told from zero, how many students confirm.

    table   of :func:`gains`; widths of fewer than three seeds have no interval and do not count
    """
    said = []
    for (dataset, model), part in table[table["n"] >= SEEDS_FOR_INTERVAL].groupby(["dataset", "model"], sort=False):
        sign = {side: (part[f"{side}_low"] > 0).astype(int) - (part[f"{side}_high"] < 0) for side in SIDES}
        clear = sign["pruned"] != 0
        counts = [int((sign["student"][clear] * sign["pruned"][clear] == which).sum()) for which in (1, -1, 0)]
        only = int(((sign["student"] != 0) & ~clear).sum())
        apart = int(((part["less_low"] > 0) | (part["less_high"] < 0)).sum())
        rho = spearman(part["pruned"].to_numpy(), part["student"].to_numpy())
        said.append(
            f"{network_name(dataset, model)}: {len(part)} sets of widths (a rule and a budget each) differ from the reference's. "
            f"After pruning, the {100 * part['level'].iloc[0]:g} % interval of {int(clear.sum())} leaves out zero. Among "
            f"students it does so on the same side for {counts[0]} of these and on the other for {counts[1]}, and {counts[2]} "
            "stay open; "
            f"for {only} others it does so among students alone. The two gains differ, by an interval of their difference, for "
            f"{apart}. Their Spearman coefficient is {signed(rho)}. The intervals are not corrected for their number and decide "
            "nothing."
        )
    return said
