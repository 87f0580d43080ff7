"""What the records say of a claim, by the rules that were written down with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slimlib.study.claims import Claim
from slimlib.study.layers import layer_table
from slimlib.study.ranks import rank_agreement
from slimlib.study.runs import Run
from slimlib.study.statistics import (
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    averaged_over_budgets,
    differences,
    holm,
    paired,
    verdict,
    with_best_tilt,
)

if TYPE_CHECKING:
    import pandas as pd

MIXED = "mixed"


@dataclass(frozen=True)
class Judgement:
    """What the records say of a claim.

    verdict  "supported" or "not supported" when all deciding comparisons say so, "mixed" when they contradict
             each other, else "inconclusive"
    deciding one row a comparison that decides; p_holm is corrected for their number, and "supported" needs p_holm too
    cells    the same at each single budget, uncorrected, for the reader
    recorded, expected   runs
    """

    claim: Claim
    verdict: str
    deciding: pd.DataFrame
    cells: pd.DataFrame
    recorded: int
    expected: int

    def text(self) -> str:
        """The verdict in words that can be repeated: counts first, then the reach of the effects."""
        c, rows = self.claim, self.deciding
        share = f"{self.recorded} of {self.expected} runs are recorded"
        if rows.empty:
            return f"{c.id}: inconclusive. {share}; no comparison can be made yet."
        counts = rows["verdict"].value_counts()
        said = ", ".join(
            f"{name} in {counts[name]}" for name in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE) if name in counts
        )
        if c.kind == "paired":
            reach = (
                f"mean differences from {100 * rows['mean'].min():+.2f} to {100 * rows['mean'].max():+.2f} percentage "
                f"points, {int(rows['n'].min())} to {int(rows['n'].max())} seeds"
            )
        else:
            reach = f"Spearman's coefficients from {rows['spearman'].min():+.2f} to {rows['spearman'].max():+.2f}"
        doubt = int((~rows["agree"]).sum()) if "agree" in rows else 0
        doubtful = f" In {doubt} of them t and bootstrap intervals disagree." if doubt else ""
        return f"{c.id}: {self.verdict}. Of {len(rows)} comparisons: {said}; {reach}. {share}.{doubtful}"


def judge(claim: Claim, records: Sequence[dict[str, Any]], root: str | Path | None = None) -> Judgement:
    """Judge a claim from the records of its deciding runs; others are ignored, missing ones counted, not guessed."""
    wanted = claim.deciding_runs(root)
    keys = {run.key for run in wanted}
    used = list({record["key"]: record for record in records if record["key"] in keys}.values())
    rows, cells = (_judge_paired if claim.kind == "paired" else _judge_rank)(claim, used, wanted)
    found = set(rows["verdict"]) if len(rows) else set()
    overall = found.pop() if len(found) == 1 else INCONCLUSIVE
    if {SUPPORTED, NOT_SUPPORTED} <= found:
        overall = MIXED
    return Judgement(claim, overall, rows, cells, len(used), len(wanted))


def _decided(row: Mapping[str, Any], p_holm: float, claim: Claim, enough: bool) -> str:
    found = verdict(row["low"], row["high"], claim.margin) if enough else INCONCLUSIVE
    return INCONCLUSIVE if found == SUPPORTED and not p_holm <= 1 - claim.level else found


def _judge_paired(claim: Claim, records: list[dict[str, Any]], wanted: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Deciding comparison: one rival, data set, model and unit of budget, averaged over its budgets seed by seed."""
    import pandas as pd

    from slimlib.study.store import to_frame

    frame = with_best_tilt(to_frame(records)) if records else pd.DataFrame()
    expected: dict[tuple[str, str, str], list[str]] = {}
    for run in wanted:
        if run.budget.partition(":")[0] in claim.budgets:
            budgets = expected.setdefault((run.dataset, run.model, run.budget.partition(":")[0]), [])
            budgets += [run.budget] * (run.budget not in budgets)
    rows, cells = [], []
    for rival in claim.rivals if len(frame) else ():
        pairs = differences(frame, claim.ours, rival, claim.metric)
        for (dataset, model, unit), budgets in expected.items():
            part = pairs[(pairs["dataset"] == dataset) & (pairs["model"] == model) & (pairs["budget_kind"] == unit)]
            head = {"rival": rival, "dataset": dataset, "model": model, "unit": unit}
            for budget, cell in part.groupby("budget"):
                cells.append(
                    {**head, "budget": budget, **paired(cell["difference"], claim.level, claim.margin).to_dict()}
                )
            together = averaged_over_budgets(part, budgets)
            if len(together):
                rows.append(
                    {**head, "budgets": ", ".join(budgets), **paired(together, claim.level, claim.margin).to_dict()}
                )
    adjusted = holm([row["p"] if row["n"] >= claim.min_seeds else np.nan for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row |= {"p_holm": p, "verdict": _decided(row, p, claim, row["n"] >= claim.min_seeds)}
    return pd.DataFrame(rows), pd.DataFrame(cells)


def _judge_rank(claim: Claim, records: list[dict[str, Any]], wanted: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Deciding comparison: one data set, model, budget and ratio; means over seeds come first."""
    import pandas as pd

    rows, cells = [], []
    for dataset, model in dict.fromkeys((run.dataset, run.model) for run in wanted):
        mine = [r for r in records if (r["run"]["dataset"], r["run"]["model"]) == (dataset, model)]
        for rule in (claim.ours, *claim.controls) if mine else ():
            for budget in claim.budgets:
                for ratio in claim.ratios:
                    left_out = (claim.exclude or {}).get(model.removesuffix(":pretrained"), ())
                    layers = layer_table(mine, rule, budget, ratio)
                    layers = layers[~layers.index.isin(left_out)]
                    if len(layers) < claim.min_groups:
                        continue
                    found = rank_agreement(
                        layers["score"], layers["drop"], layers["stage"].tolist(), claim.level
                    ).to_dict()
                    row = {"dataset": dataset, "model": model, "rule": rule, "budget": budget, "ratio": ratio, **found}
                    row |= {"low": row["spearman_low"], "high": row["spearman_high"]}
                    (rows if rule == claim.ours else cells).append(row)
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "verdict": _decided(row, p, claim, True)}
    return pd.DataFrame(rows), pd.DataFrame([*rows, *cells])
