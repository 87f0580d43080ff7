"""Which verdicts would be others, had another choice been made that the rules or the records leave open."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slimlib.study import changes, findings
from slimlib.study.judgement import Judgement
from slimlib.study.names import counted
from slimlib.study.statistics import SUPPORTED, holm
from slimlib.study.tilt_choice import CHANGES_NONE, doubts, of_weight, turned


def fragile(judged: Judgement) -> set[int]:
    """The places, in `Judgement.deciding`, of verdicts that another choice would turn: all planned comparisons counted, the best
    tilt chosen otherwise, the bootstrap interval in the place of the t interval. Of comparisons with enough seeds."""
    rows = judged.deciding.to_dict("records")
    if not rows:
        return set()
    turn = {*changes.with_all_planned(judged.claim, rows, judged.claim.comparisons(judged.runs))[0], *turned(judged)}
    turn |= {at for at, row in enumerate(rows) if row.get("boot_verdict", row["verdict"]) != row["verdict"]}
    return {at for at in turn if judged.claim.kind == "rank" or rows[at]["n"] >= judged.claim.min_seeds}


def in_words(judged: Judgement) -> list[str]:
    """What a reader of the verdict must know of it: of the doubts, those that bound a control or turn a verdict."""
    rows, planned = judged.deciding.to_dict("records"), judged.claim.comparisons(judged.runs)
    # that a whole claim is open while parts are to be made goes without saying
    told = [once_all_begun(judged)] if rows and changes.with_all_planned(judged.claim, rows, planned)[0] else []
    return [*filter(of_weight, doubts(judged)), *told]


def once_all_begun(judged: Judgement) -> str:
    """What the first record of each profile that has none would do to the verdicts: the comparisons planned there count from then
    on. Nothing where all are begun."""
    rows, planned = judged.deciding.to_dict("records"), judged.claim.comparisons(judged.runs)
    if not rows or planned <= rows[0]["family"]:
        return ""
    changed, whole = changes.with_all_planned(judged.claim, rows, planned)
    said = [f"the verdict {findings.comparison(judged.claim, rows[at])}, would be {verdict}" for at, verdict in changed.items()]
    said += [f"the verdict on the whole claim would be {whole} instead of {judged.verdict}"] * (whole != judged.verdict)
    told = f"Once every profile has a record, {planned} comparisons count instead of {rows[0]['family']}"
    return f"{told}: {'; '.join(said)}." if said else f"{told}, {CHANGES_NONE}."


def over_all_claims(judged: Mapping[str, Judgement]) -> str:
    """What one correction over the comparisons of all claims, in the place of one for each claim, would leave of those that are
    supported."""
    rows = [(one, row) for one in judged.values() for row in one.deciding.to_dict("records")]
    family = sum(one.family for one in judged.values())
    # a comparison that is not judged for want of seeds has no p yet, as within its claim
    together = holm([row["p"] if row["p_holm"] == row["p_holm"] else np.nan for _, row in rows], family)
    supported = [(one, row, p) for (one, row), p in zip(rows, together, strict=True) if row["verdict"] == SUPPORTED]
    lost = [f"{one.claim.id} {findings.comparison(one.claim, row)}" for one, row, p in supported if p > 1 - one.claim.level]
    if not supported:
        return ""
    told = f"Corrected together, over all {family} comparisons of all claims instead of those of each claim, "
    if not lost:
        return f"{told}all of the {counted(len(supported), 'comparison')} that are supported would still be."
    return f"{told}{len(lost)} of the {counted(len(supported), 'comparison')} that are supported would not be: {'; '.join(lost)}."
