"""What the choice of the best tilt leaves in doubt: it was made among few powers, by few validation images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study.deciding import as_a_whole, decide
from slimlib.study.findings import effect, ends_of_the_grid
from slimlib.study.judgement import Judgement
from slimlib.study.names import UNITS, budget_name, joined, network_name
from slimlib.study.pairing import averaged_over_budgets, differences, with_best_tilt
from slimlib.study.statistics import Paired, paired
from slimlib.study.store import to_frame
from slimlib.study.tables import tilts

if TYPE_CHECKING:
    import pandas as pd


CHANGES_NONE = "which changes no verdict"


def doubts(judged: Judgement) -> list[str]:
    """Sentences about a claim's best tilt: ends of the grid, and what the tilt that came second would change."""
    if "best_tilt" not in judged.claim.rivals or not judged.records:
        return []
    return [*ends_of_the_grid(tilts(_frame(judged), judged.runs)), *with_the_second(judged)]


def of_weight(judged: Judgement) -> list[str]:
    """Those of the `doubts` that a reader of the verdict must know: they bound the control, or would change a verdict."""
    return [doubt for doubt in doubts(judged) if CHANGES_NONE not in doubt]


def with_the_second(judged: Judgement) -> list[str]:
    """Each comparison once more, the second tilt in the place of the first where its lead on validation images is within one
    standard error: the control pays for such a choice by chance, and the rule beside it makes none."""
    import pandas as pd

    frame = _frame(judged) if judged.records else pd.DataFrame()
    if "lead" not in frame:
        return []
    close = (frame["arm"] == "best_tilt") & (frame["lead"] <= frame["lead_error"])
    cell = ["dataset", "model", "criterion", "budget", "seed"]
    seconds = frame[close][[*cell, "second"]].rename(columns={"second": "arm"})
    taken = frame[~close & (frame["arm"] != "best_tilt")].merge(seconds, on=[*cell, "arm"]).assign(arm="best_tilt")
    swapped = pd.concat([frame[~close], taken], ignore_index=True)
    claim, said = judged.claim, []
    pairs = differences(swapped, claim.ours, "best_tilt", claim.metric)
    rows = judged.deciding.to_dict("records")
    for place, row in enumerate(rows):
        here = {name: row[name] for name in ("dataset", "model")}
        together = row["budgets"].split(", ")
        at = _of(seconds, here)
        at = at[at["budget"].isin(together)]
        if row["rival"] != "best_tilt" or row["n"] < claim.min_seeds or at.empty:
            continue
        found = paired(averaged_over_budgets(_of(pairs, here), together), claim.level, claim.margin)
        budgets = joined(budget_name(budget) for budget in dict.fromkeys(at["budget"]))
        where = f"On {network_name(**here)} at equal {UNITS[row['unit']]}"
        said.append(f"{where} the best tilt leads the next, on validation images, by no more than one standard error (at "
                    f"{budgets}); with the next one there the difference is {effect(found.to_dict())} points instead of "
                    f"{effect(row)}, {_verdicts_with(judged, rows, place, found)}.")
    return said


def _verdicts_with(judged: Judgement, rows: list[dict[str, Any]], place: int, found: Paired) -> str:
    """What another result of one comparison makes of its verdict and of the claim's, the others staying as they are."""
    changed = [verdict for _, verdict in decide(judged.claim, [*rows[:place], rows[place] | found.to_dict(), *rows[place + 1 :]])]
    if changed[place] == rows[place]["verdict"]:
        return CHANGES_NONE if changed == [row["verdict"] for row in rows] else "which changes another's verdict"
    told = f"and the verdict would be {changed[place]} instead of {rows[place]['verdict']}"
    whole = as_a_whole(changed, rows[place]["family"])
    return told if whole == judged.verdict else f"{told}; that on the whole claim would be {whole} instead of {judged.verdict}"


def _frame(judged: Judgement) -> pd.DataFrame:
    return with_best_tilt(to_frame(judged.records), judged.runs)


def _of(frame: pd.DataFrame, network: Mapping[str, str]) -> pd.DataFrame:
    return frame[(frame[list(network)] == list(network.values())).all(axis=1)]
