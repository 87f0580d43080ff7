"""What runs of other studies say of a claim's arms: it stands beside the claim and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slimlib.study import budgets
from slimlib.study.judgement import Judgement
from slimlib.study.pairing import averaged_over_budgets, differences
from slimlib.study.statistics import paired
from slimlib.study.store import to_frame


def elsewhere(judged: Judgement, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons of a paired claim once more, on networks of which book/claims.yml names no runs for it.

    records   of all claims; those of the claim's own networks are left out

    One row a rival, network and unit of cost with enough seeds, made like those of `Judgement.deciding`: the mean over the unit's
    budgets, seed by seed. The verdict is that of the row's own interval; no correction, as nothing is decided.
    """
    claim = judged.claim
    own = {(run.dataset, run.model) for run in judged.runs}
    others = {record["key"]: record for record in records if (run := record["run"])["stage"] == claim.stage
              and (run["dataset"], run["model"]) not in own and claim.criterion in (None, run["criterion"])}
    frame, rows = to_frame(others.values()), []
    for rival in claim.rivals if others and claim.kind == "paired" else ():
        pairs = differences(frame, claim.ours, rival, claim.metric)
        for (dataset, model, unit), part in pairs.groupby(["dataset", "model", "budget_kind"], sort=False):
            shares = sorted(dict.fromkeys(part["budget"]), key=budgets.parse)
            together = averaged_over_budgets(part, shares)
            if unit in claim.budgets and len(together) >= claim.min_seeds:
                row = {"rival": rival, "dataset": dataset, "model": model, "unit": unit, "budgets": ", ".join(shares)}
                rows.append(row | paired(together, claim.level, claim.margin).to_dict())
    return rows
