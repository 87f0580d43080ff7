"""What the records say of a claim, by the rules that were written down with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimlib.errors import SlimlibError
from slimlib.study import budgets
from slimlib.study.claims import Claim, load_claims
from slimlib.study.deciding import as_a_whole, by_bootstrap, decide
from slimlib.study.layers import correlations, too_few_layers
from slimlib.study.pairing import averaged_over_budgets, differences, with_best_tilt
from slimlib.study.profiles import load_profile
from slimlib.study.runs import Run
from slimlib.study.statistics import paired
from slimlib.study.store import network_of, to_frame

if TYPE_CHECKING:
    import pandas as pd

NO_EVIDENCE = "no evidence yet"


@dataclass(frozen=True)
class Judgement:
    """What the records say of a claim.

    verdict  "supported" or "not supported" when all comparisons that decide it in the profiles begun say so, those still to be
             made included; "mixed" when some are supported and others not supported, else "inconclusive"
    deciding one row a comparison that decides; p_holm is corrected for `family`, and "supported" needs p_holm too;
             boot_verdict of a paired one: what the bootstrap interval would lead to in the place of the t interval
    cells    uncorrected, for the reader: of a paired claim the same at each single budget; of a rank claim all orders of layers,
             its controls' too, at each budget and ratio
    pairs    what a paired claim rests on: one row a rival, cell and seed, with the difference and both runs' keys
    runs     that decide it, of networks that can
    records  of those runs that have one
    family   how many comparisons Holm's correction is over
    """

    claim: Claim
    verdict: str
    deciding: pd.DataFrame
    cells: pd.DataFrame
    pairs: pd.DataFrame
    records: tuple[dict[str, Any], ...]
    runs: tuple[Run, ...]
    family: int = 0

    @cached_property
    def by_key(self) -> dict[str, dict[str, Any]]:
        """The records by the keys of their runs, as `pairs` name them."""
        return {record["key"]: record for record in self.records}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The records by `to_frame`, with the best tilt of each cell (`pairing.with_best_tilt`); without columns if none."""
        frame = to_frame(self.records)
        return with_best_tilt(frame, self.runs) if len(frame) else frame

    @property
    def recorded(self) -> int:
        return len(self.records)

    @property
    def expected(self) -> int:
        return len(self.runs)

    @property
    def complete(self) -> bool:
        return self.recorded == self.expected

    @property
    def told(self) -> str:
        """The verdict for a reader: "so far" while runs are missing, and "no evidence yet" before the first comparison."""
        if self.deciding.empty:
            return NO_EVIDENCE
        return self.verdict if self.complete else f"{self.verdict} so far"


def judge(claim: Claim, records: Sequence[dict[str, Any]], root: str | Path | None = None) -> Judgement:
    """Judge a claim from the records of its deciding runs; others are ignored, missing ones counted, not guessed."""
    wanted = claim.deciding_runs(root)
    keys = {run.key for run in wanted}
    used = list({record["key"]: record for record in records if record["key"] in keys}.values())
    if claim.kind == "rank":
        few = too_few_layers(used, claim.exclude, claim.min_groups)
        wanted = [run for run in wanted if (run.dataset, run.model) not in few]
        used = [record for record in used if network_of(record) not in few]
    family = _family(claim, {run.key: run for run in wanted}, {record["key"] for record in used}, root)
    rows, cells, pairs = (_judge_paired if claim.kind == "paired" else _judge_rank)(claim, used, wanted, family)
    overall = as_a_whole(rows["verdict"] if len(rows) else (), family)
    return Judgement(claim, overall, rows, cells, pairs, tuple(used), tuple(wanted), family)


def _family(claim: Claim, wanted: Mapping[str, Run], recorded: set[str], root: str | Path | None) -> int:
    """How many comparisons Holm's correction is over: all those planned in the profiles that have any record, made or not. So a
    verdict doesn't fade as these are made; the first record of another profile adds those of that one."""
    begun: dict[str, Run] = {}
    for profile in dict.fromkeys(where["profile"] for where in claim.runs):
        runs = {run.key: run for run in claim.within(profile).deciding_runs(root) if run.key in wanted}
        if recorded & set(runs):
            begun |= runs
    return claim.comparisons(begun.values())


def judge_all(
    profile: str | None = None, only: str | Iterable[str] | None = None, root: str | Path | None = None
) -> dict[str, Judgement]:
    """Every claim of book/claims.yml, judged from the records of its profiles: {id: Judgement}.

    profile   only this profile's runs count; None means all that the claims name. Claims it has no runs for are left out
    only      ids of claims, or one; None means all

    Raises SlimlibError for a profile or a claim that is not there, and for a profile that decides none where all are asked for.
    """
    claims, only = load_claims(root=root), None if only is None else {only} if isinstance(only, str) else set(only)
    if unknown := (only or set()) - set(claims):
        raise SlimlibError(f"only={min(unknown)!r} is no claim; book/claims.yml has {', '.join(claims)}")
    if profile is not None:
        load_profile(profile, root)  # which refuses a name that is not there
    read: dict[str, dict[str, Any] | None] = {}
    judged = {}
    for name in [name for name in claims if only is None or name in only]:
        claim = claims[name] if profile is None else claims[name].within(profile)
        stores = [load_profile(where["profile"], root).store() for where in claim.runs]
        for run in claim.deciding_runs(root):
            if run.key not in read:
                read[run.key] = next((record for store in stores if (record := store.get(run)) is not None), None)
        if claim.runs:
            judged[name] = judge(claim, [record for record in read.values() if record is not None], root)
    if not judged and only is None:
        deciding = dict.fromkeys(where["profile"] for claim in claims.values() for where in claim.runs)
        raise SlimlibError(f"profile={profile!r} decides no claim; choose one of {', '.join(deciding)}")
    return judged


def _judge_paired(claim: Claim, records: list[dict[str, Any]], wanted: list[Run], family: int) -> tuple[pd.DataFrame, ...]:
    """Deciding comparison: one rival, data set, model and unit of budget, averaged over its budgets seed by seed."""
    import pandas as pd

    frame = with_best_tilt(to_frame(records), wanted) if records else pd.DataFrame()
    expected: dict[str, dict[tuple[str, str, str], dict[str, None]]] = {rival: {} for rival in claim.rivals}
    for run in wanted:
        unit = budgets.parse(run.budget).kind
        for rival in claim.sides(run) if unit in claim.budgets else ():
            if rival != claim.ours:
                expected[rival].setdefault((run.dataset, run.model, unit), {})[run.budget] = None
    rows, cells, all_pairs = [], [], []
    for rival in claim.rivals if len(frame) else ():
        pairs = differences(frame, claim.ours, rival, claim.metric)
        for (dataset, model, unit), wanted_budgets in expected[rival].items():
            part = pairs[(pairs["dataset"] == dataset) & (pairs["model"] == model) & (pairs["budget_kind"] == unit)]
            head = {"rival": rival, "dataset": dataset, "model": model, "unit": unit, "family": family, "level": claim.level}
            all_pairs.append(part.assign(ours=claim.ours, rival=rival, unit=unit))
            for budget, cell in sorted(part.groupby("budget"), key=lambda item: budgets.parse(item[0])):
                cells.append(
                    {**head, "budget": budget, **paired(cell["difference"], claim.level, claim.margin).to_dict()}
                )
            together = averaged_over_budgets(part, list(wanted_budgets))
            if len(together):
                rows.append(
                    {**head, "budgets": ", ".join(wanted_budgets), **paired(together, claim.level, claim.margin).to_dict()}
                )
    rows = [row | {"p_holm": p, "verdict": found, "boot_verdict": by_bootstrap(row, p, claim)}
            for row, (p, found) in zip(rows, decide(claim, rows), strict=True)]
    return pd.DataFrame(rows), pd.DataFrame(cells), pd.concat(all_pairs) if all_pairs else pd.DataFrame()


def _judge_rank(claim: Claim, records: list[dict[str, Any]], wanted: list[Run], family: int) -> tuple[pd.DataFrame, ...]:
    """Deciding comparison: one data set, model, budget and ratio; means over seeds come first."""
    import pandas as pd

    order = {run.key: at for at, run in enumerate(wanted)}
    records = sorted(records, key=lambda record: order[record["key"]])
    every = correlations(
        records, (claim.ours, *claim.controls), claim.budgets, claim.ratios, claim.exclude, claim.level, claim.min_groups
    )
    if every.empty:
        return every, every, pd.DataFrame()
    every = every.assign(family=family)
    rows = every[every["rule"] == claim.ours].to_dict("records")
    rows = [row | {"p_holm": p, "verdict": found} for row, (p, found) in zip(rows, decide(claim, rows), strict=True)]
    return pd.DataFrame(rows), every, pd.DataFrame()
