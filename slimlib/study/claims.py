"""Claims: written down in book/claims.yml before the runs, judged from records by rules written with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slimlib.errors import SlimlibError
from slimlib.study.profiles import load_profile, profile_names, project_root
from slimlib.study.runs import Run
from slimlib.study.statistics import (
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    auc,
    averaged_over_budgets,
    differences,
    holm,
    paired,
    rank_agreement,
    verdict,
    with_best_tilt,
)

if TYPE_CHECKING:
    import pandas as pd

MIXED = "mixed"
KINDS = ("paired", "rank")


@dataclass(frozen=True)
class Claim:
    """One claim and what decides it.

    id, title, statement  the statement is the sentence that is tested, and says which way
    kind         "paired": arm `ours` against each of `rivals` in `metric`, seed by seed, runs of `stage`
                 "rank":   the order of layers by `ours` against the order by measured accuracy drop at each of `ratios`
    runs         [{profile, studies}]: the runs that decide
    budgets      units that count, "macs" and "params" (paired); budgets of the kept fractions (rank)
    controls     what stands beside `ours` for comparison without deciding (rank)
    exclude      {architecture: [groups]} left out of the ranking, such as a layer bounded by its rank (rank)
    margin       the least effect that would matter: accuracy as a fraction, or a correlation
    level        of the intervals; min_seeds, min_groups: fewer decide nothing
    """

    id: str
    title: str
    statement: str
    kind: str
    ours: str
    runs: tuple[Mapping[str, Any], ...]
    metric: str = "test_accuracy"
    rivals: tuple[str, ...] = ()
    stage: str = "prune"
    criterion: str | None = None
    budgets: tuple[str, ...] = ("macs", "params")
    ratios: tuple[float, ...] = ()
    controls: tuple[str, ...] = ()
    exclude: Mapping[str, Sequence[str]] | None = None
    margin: float = 0.0
    level: float = 0.95
    min_seeds: int = 5
    min_groups: int = 6

    def deciding_runs(self, root: str | Path | None = None) -> list[Run]:
        """All runs of the studies that decide, of the claim's stage and arms; recorded or not."""
        stage = "sensitivity" if self.kind == "rank" else self.stage
        arms = {self.ours, *self.rivals}
        if "best_tilt" in arms:
            arms |= {"uniform"}
        found: dict[Run, None] = {}
        for where in self.runs:
            for run in load_profile(where["profile"], root).runs(where["studies"]):
                same = run.stage == stage and (self.criterion is None or run.criterion == self.criterion)
                wanted = self.kind == "rank" or run.arm in arms or ("best_tilt" in arms and run.rule == "tilt")
                if same and wanted:
                    found.setdefault(run)
        return list(found)


def load_claims(path: str | Path | None = None) -> dict[str, Claim]:
    """Read and check book/claims.yml: {id: Claim}, in its order. Errors name the claim and the entry that is wrong."""
    import yaml

    path = Path(path) if path is not None else project_root() / "book" / "claims.yml"
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    claims: dict[str, Claim] = {}
    for entry in told["claims"]:
        claim = _claim({**told["defaults"].get(entry.get("kind"), {}), **entry})
        if claim.id in claims:
            raise SlimlibError(f"{path.name}: id {claim.id!r} is there twice")
        claims[claim.id] = claim
    return claims


def sensitive_layers(path: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """What Li et al. (2017) call sensitive, by claims.yml: {architecture: {"sensitive": [groups], "source"}}."""
    import yaml

    path = Path(path) if path is not None else project_root() / "book" / "claims.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["published_sensitivity"]


def _claim(entry: Mapping[str, Any]) -> Claim:
    where = f"claims.yml: claim {entry.get('id')!r}"
    unknown = set(entry) - {f.name for f in fields(Claim)}
    if unknown:
        raise SlimlibError(f"{where}: {sorted(unknown)[0]} is not understood")
    try:
        claim = Claim(**{name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()})
    except TypeError as error:
        raise SlimlibError(f"{where}: {error}") from error
    if claim.kind not in KINDS:
        raise SlimlibError(f"{where}: kind={claim.kind!r} must be one of {', '.join(KINDS)}")
    if claim.kind == "paired" and not claim.rivals:
        raise SlimlibError(f"{where}: rivals is missing; a paired claim compares with something")
    if claim.kind == "rank" and not claim.ratios:
        raise SlimlibError(f"{where}: ratios is missing; which pruning ratios of the sensitivity scan count?")
    for run in claim.runs:
        if set(run) != {"profile", "studies"} or run["profile"] not in profile_names():
            raise SlimlibError(
                f"{where}: runs must name a profile ({', '.join(profile_names())}) and its studies, not {dict(run)}"
            )
    return claim


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


def layer_table(records: Sequence[dict[str, Any]], rule: str, budget: str | None, ratio: float) -> pd.DataFrame:
    """One row a group: measured accuracy `drop` at a ratio, the rule's `score`, and `stage`, the group's full width.

    Means over the records' seeds and, for controls drawn at random, over the control's. The score is the kept
    fraction at the budget, or its mean over budgets where that is "any"; for "depth" the layer's number from the
    input, for "neyman_score" V / T, whatever the budget.
    """
    import pandas as pd

    drops, scores = [], []
    for record in records:
        curve = pd.DataFrame(record["sensitivity"])
        drops.append(curve[np.isclose(curve["ratio"], ratio)].set_index("group"))
        if rule == "depth":
            scores.append(pd.Series(range(len(drops[-1])), index=drops[-1].index, dtype=float))
            continue
        kept = pd.DataFrame(record["kept"])
        kept = kept[kept["rule"] == rule]
        if budget != "any" and rule != "neyman_score":
            kept = kept[kept["budget"] == budget]
        scores.append(kept.groupby("group")["value"].mean())
    table = pd.DataFrame(
        {
            "drop": pd.concat([d["drop"] for d in drops]).groupby(level=0).mean(),
            "score": pd.concat(scores).groupby(level=0).mean(),
            "stage": pd.concat([d["full_width"] for d in drops]).groupby(level=0).first(),
        }
    )
    if table["score"].isna().any() or table["drop"].isna().any():
        raise SlimlibError(
            f"rule={rule!r}, budget={budget!r}, ratio={ratio}: the sensitivity records do not hold all groups"
        )
    return table.loc[list(dict.fromkeys(drops[0].index))]


def published_agreement(
    records: Sequence[dict[str, Any]], rule: str, budget: str | None, ratio: float = 0.75
) -> dict[str, float]:
    """AUC of a rule's score (rule "drop": of the measured drop) against the layers that Li et al. call sensitive."""
    architecture = records[0]["run"]["model"].removesuffix(":pretrained")
    known = sensitive_layers()
    if architecture not in known:
        raise SlimlibError(
            f"model={architecture!r}: no published list of sensitive layers; there are {', '.join(known)}"
        )
    layers = layer_table(records, "depth" if rule == "drop" else rule, budget, ratio)
    layers = layers[~layers.index.isin(known[architecture].get("exclude", ()))]
    return auc(layers["drop" if rule == "drop" else "score"], layers.index.isin(known[architecture]["sensitive"]))
