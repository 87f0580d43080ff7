"""What the choice of the best tilt leaves in doubt: it was made among few powers, by few validation images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slimlib.study.deciding import as_a_whole, decide
from slimlib.study.findings import comparison, effect, ends_of_the_grid
from slimlib.study.judgement import Judgement
from slimlib.study.names import UNITS, budget_name, joined, network_name, weight_free_power
from slimlib.study.pairing import averaged_over_budgets, by_validation, differences
from slimlib.study.statistics import Paired, paired
from slimlib.study.tables import tilts

if TYPE_CHECKING:
    import pandas as pd


CHANGES_NONE = "which changes no verdict"
WHERE = ["dataset", "model", "criterion", "budget", "seed"]


def doubts(judged: Judgement) -> list[str]:
    """Sentences about a claim's best tilt: ends of the grid, what the second one or a choice by other seeds would change."""
    if "best_tilt" not in judged.claim.rivals or not judged.records:
        return []
    return [*ends_of_the_grid(tilts(judged.frame, judged.runs)), *with_the_second(judged), *chosen_by_the_other_seeds(judged)]


def of_weight(doubt: str) -> bool:
    """Whether a reader of the verdict must know one of the `doubts`: it bounds the control, or would change a verdict."""
    return CHANGES_NONE not in doubt


def turned(judged: Judgement) -> set[int]:
    """The places of the deciding comparisons that another choice of the tilt turns: the second one where the lead is that small,
    or for each seed that which the other seeds choose."""
    if "best_tilt" not in judged.claim.rivals or "lead" not in judged.frame:
        return set()
    rows, frames = judged.deciding.to_dict("records"), (_second_tilts(judged.frame), _tilts_by_the_other_seeds(judged.frame))
    return {at for frame in frames for place, _, found in _once_more(judged, frame)
            for at, verdict in enumerate(_judged_with(judged, rows, place, found)) if verdict != rows[at]["verdict"]}


def with_the_second(judged: Judgement) -> list[str]:
    """Each comparison once more, the second tilt in the place of the first where its lead on validation images is within one
    standard error: there the choice may be one of chance, while the rule beside it makes none."""
    frame = judged.frame
    if "lead" not in frame:
        return []
    close, said = frame[_hardly_leads(frame)], []
    for place, row, found in _once_more(judged, _second_tilts(frame)):
        here = close[(close["dataset"] == row["dataset"]) & (close["model"] == row["model"])]
        at = here[here["budget"].isin(row["budgets"].split(", "))]
        if at.empty:
            continue
        budgets = joined(budget_name(budget) for budget in dict.fromkeys(at["budget"]))
        said.append(f"{_where(row)} the best tilt leads the next, on validation images, by no more than one standard error (at "
                    f"{budgets}); with the next one there the difference is {effect(found.to_dict())} points instead of "
                    f"{effect(row)}, {_verdicts_with(judged, place, found)}.")
    return said


def chosen_by_the_other_seeds(judged: Judgement) -> list[str]:
    """Each comparison once more, the tilt of each seed chosen by the other seeds' validation accuracies: no run then has a say in
    the choice of its own tilt, and the interval knows that the choice may fall otherwise. What it changes is told."""
    if "lead" not in judged.frame:
        return []
    again = _tilts_by_the_other_seeds(judged.frame)
    made = [(row, found, _verdicts_with(judged, place, found)) for place, row, found in _once_more(judged, again)]
    said = [f"{_where(row)}, with the tilt of each seed chosen by the other seeds, the difference is {effect(found.to_dict())} "
            f"points instead of {effect(row)}, {told}." for row, found, told in made if told != CHANGES_NONE]
    rest = len(made) - len(said)
    if rest:
        others = "comparisons" if not said else "other comparisons"
        said.append(f"In {rest} {others} the tilt of each seed was also chosen by the other seeds, {CHANGES_NONE}.")
    return said


def _hardly_leads(frame: pd.DataFrame) -> pd.Series:
    """Which rows are a best tilt whose lead over the second, on validation images, is within one standard error."""
    return (frame["arm"] == "best_tilt") & (frame["lead"] <= frame["lead_error"])


def _second_tilts(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the second tilt as the best where that one hardly leads."""
    import pandas as pd

    close = _hardly_leads(frame)
    seconds = frame[close][[*WHERE, "second"]].rename(columns={"second": "arm"})
    taken = frame[~close & (frame["arm"] != "best_tilt")].merge(seconds, on=[*WHERE, "arm"]).assign(arm="best_tilt")
    return pd.concat([frame[~close], taken], ignore_index=True)


def _tilts_by_the_other_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with another best tilt: for each seed the one with the highest validation accuracies of the others."""
    import pandas as pd

    tilts = frame[frame["arm"].map(weight_free_power).notna()]
    best, chosen = frame[frame["arm"] == "best_tilt"], []
    for _, of in best.groupby(WHERE[:-1], dropna=False):
        rows = tilts.merge(of[WHERE], on=WHERE)
        for seed in of["seed"] if len(of) > 1 else ():
            arm = by_validation(rows[rows["seed"] != seed])[0]
            chosen.append(rows[(rows["seed"] == seed) & (rows["arm"] == arm)].assign(arm="best_tilt"))
    return pd.concat([frame[frame["arm"] != "best_tilt"], *chosen], ignore_index=True)


def _once_more(judged: Judgement, frame: pd.DataFrame) -> Iterator[tuple[int, dict[str, Any], Paired]]:
    """The judged comparisons with the best tilt: place among all that decide, what was found, what this frame gives instead."""
    claim = judged.claim
    pairs = differences(frame, claim.ours, "best_tilt", claim.metric)
    for place, row in enumerate(judged.deciding.to_dict("records")):
        if row["rival"] == "best_tilt" and row["n"] >= claim.min_seeds:
            own = pairs[(pairs["dataset"] == row["dataset"]) & (pairs["model"] == row["model"])]
            together = averaged_over_budgets(own, row["budgets"].split(", "))
            yield place, row, paired(together, claim.level, claim.margin)


def _where(row: Mapping[str, Any]) -> str:
    return f"On {network_name(row['dataset'], row['model'])} at equal {UNITS[row['unit']]}"


def _verdicts_with(judged: Judgement, place: int, found: Paired) -> str:
    """What another result of one comparison makes of its verdict and of the claim's, the others staying as they are."""
    rows = judged.deciding.to_dict("records")
    changed = _judged_with(judged, rows, place, found)
    turn = {at: verdict for at, verdict in enumerate(changed) if verdict != rows[at]["verdict"]}
    if not turn:
        return CHANGES_NONE
    told = [f"the verdict would be {turn.pop(place)} instead of {rows[place]['verdict']}"] if place in turn else []
    told += [f"that {comparison(judged.claim, rows[at])}, would be {verdict}" for at, verdict in turn.items()]
    if (whole := as_a_whole(changed, rows[place]["family"])) != judged.verdict:
        told.append(f"that on the whole claim would be {whole} instead of {judged.verdict}")
    return f"and {'; '.join(told)}"


def _judged_with(judged: Judgement, rows: Sequence[Mapping[str, Any]], place: int, found: Paired) -> list[str]:
    again = [*rows[:place], {**rows[place], **found.to_dict()}, *rows[place + 1 :]]
    return [verdict for _, verdict in decide(judged.claim, again)]
