"""Claims: written down in book/claims.yml before the runs, with the rules by which `judgement` judges them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError
from slimlib.project import project_root
from slimlib.study.budgets import parse
from slimlib.study.names import tilt_power
from slimlib.study.profiles import load_profile, profile_names
from slimlib.study.runs import Run

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

    def within(self, profile: str) -> Claim:
        """The claim as the runs of one profile alone decide it."""
        return replace(self, runs=tuple(where for where in self.runs if where["profile"] == profile))

    def deciding_runs(self, root: str | Path | None = None) -> list[Run]:
        """All runs of the studies that decide, recorded or not: of a paired claim, those whose partners are planned as well."""
        stage = "sensitivity" if self.kind == "rank" else self.stage
        found: dict[Run, None] = {}
        for where in self.runs:
            for run in load_profile(where["profile"], root).runs(where["studies"]):
                if run.stage == stage and (self.criterion is None or run.criterion == self.criterion):
                    found.setdefault(run)
        if self.kind == "rank":
            return list(found)
        told = [(run, self.sides(run)) for run in found]
        planned: dict[tuple[str, str, str | None], set[str]] = defaultdict(set)
        for run, sides in told:
            planned[run.dataset, run.model, run.budget].update(sides)
        return [run for run, sides in told if sides and len(arms := planned[run.dataset, run.model, run.budget]) > 1
                and self.ours in arms]

    def sides(self, run: Run) -> list[str]:
        """What a run is to a paired claim: ours, a rival, both, or nothing. All tilts make up the best one."""
        tilt = run.arm == "uniform" or tilt_power(run.arm or "") is not None
        return [arm for arm in (self.ours, *self.rivals) if run.arm == arm or (arm == "best_tilt" and tilt)]

    def comparisons(self, runs: Iterable[Run]) -> int:
        """How many deciding comparisons such runs make once all are recorded."""
        if self.kind == "rank":
            return len({(run.dataset, run.model) for run in runs}) * len(self.budgets) * len(self.ratios)
        made = {(side, run.dataset, run.model, unit) for run in runs for side in self.sides(run)
                if side != self.ours and (unit := parse(run.budget).kind) in self.budgets}
        return len(made)


def load_claims(path: str | Path | None = None, root: str | Path | None = None) -> dict[str, Claim]:
    """Read and check book/claims.yml: {id: Claim}, in its order. Errors name the claim and the entry that is wrong.

    path   of another file; root   of another project, whose profiles the claims name
    """
    path, told = _read(path, root)
    profiles = profile_names(root)
    claims: dict[str, Claim] = {}
    for entry in told["claims"]:
        claim = _claim({**told["defaults"].get(entry.get("kind"), {}), **entry}, profiles)
        if claim.id in claims:
            raise SlimlibError(f"{path.name}: id {claim.id!r} is there twice")
        claims[claim.id] = claim
    return claims


def published_layers(path: str | Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """What Li et al. (2017) say of layers, by claims.yml: {architecture: [{"layers": groups, "source": who says what of them}]}.

    `exclude`, where it stands, names groups that are on neither side.
    """
    return _read(path)[1]["published_sensitivity"]


def changelog(path: str | Path | None = None) -> list[dict[str, str]]:
    """What was changed in claims.yml after it was written: [{"date", "what"}], oldest first."""
    path, told = _read(path)
    entries = told["changelog"] or []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"date", "what"}:
            raise SlimlibError(f"{path.name}: changelog entry {entry!r} must have a date and say what was changed")
    return [{name: str(value) for name, value in entry.items()} for entry in entries]


def _read(path: str | Path | None, root: str | Path | None = None) -> tuple[Path, dict[str, Any]]:
    """A file of claims, by default that of the project, and what it says."""
    import yaml

    path = Path(path) if path is not None else project_root(root) / "book" / "claims.yml"
    return path, yaml.safe_load(path.read_text(encoding="utf-8"))


def _claim(entry: Mapping[str, Any], profiles: Sequence[str]) -> Claim:
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
        if set(run) != {"profile", "studies"} or run["profile"] not in profiles:
            raise SlimlibError(
                f"{where}: runs must name a profile ({', '.join(profiles)}) and its studies, not {dict(run)}"
            )
    return claim
