"""Claims: written down in book/claims.yml before the runs, with the rules by which `judgement` judges them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from slimlib import models
from slimlib.cost import UNITS
from slimlib.errors import SlimlibError
from slimlib.project import project_root
from slimlib.study import studies
from slimlib.study.budgets import parse
from slimlib.study.names import is_arm, weight_free_power
from slimlib.study.profiles import load_profile, profile_names
from slimlib.study.runs import SLIM_STAGES, Run

KINDS = ("paired", "rank")
_PARTS = {"claims", "defaults", "changelog", "published_sensitivity"}


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

    @property
    def is_control(self) -> bool:
        """Whether it checks the method's parts, K1, K2, ..., and is none of the claims, C1, C2, ..."""
        return self.id.startswith("K")

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
        told = [(run, self.sides(run)) for run in found if parse(run.budget).kind in self.budgets]
        planned: dict[tuple[str, str, str | None], set[str]] = defaultdict(set)
        for run, sides in told:
            planned[run.dataset, run.model, run.budget].update(sides)
        return [run for run, sides in told if sides and len(arms := planned[run.dataset, run.model, run.budget]) > 1
                and self.ours in arms]

    def sides(self, run: Run) -> list[str]:
        """What a run is to a paired claim: ours, a rival, both, or nothing. All tilts make up the best one."""
        tilt = weight_free_power(run.arm) is not None
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
    path, told = _read(path, root, needed=("claims", "defaults"))
    claims: dict[str, Claim] = {}
    for entry in told["claims"]:
        claim = _claim({**told["defaults"].get(entry.get("kind"), {}), **entry}, root)
        if claim.id in claims:
            raise SlimlibError(f"{path.name}: id {claim.id!r} is there twice")
        claims[claim.id] = claim
    return claims


def published_layers() -> dict[str, list[dict[str, Any]]]:
    """What Li et al. (2017) say of layers, by claims.yml: {architecture: [{"layers": groups, "source": who says what of them}]}.

    `exclude`, where it stands, names groups that are on neither side.
    """
    return _read(None, needed=("published_sensitivity",))[1]["published_sensitivity"]


def changelog(path: str | Path | None = None) -> list[dict[str, str]]:
    """What was changed in claims.yml after it was written: [{"date", "what"}], oldest first."""
    path, told = _read(path, needed=("changelog",))
    entries = told["changelog"] or []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"date", "what"}:
            raise SlimlibError(f"{path.name}: changelog entry {entry!r} must have a date and say what was changed")
    return [{name: str(value) for name, value in entry.items()} for entry in entries]


def _read(path: str | Path | None, root: str | Path | None = None, needed: Iterable[str] = ()) -> tuple[Path, dict[str, Any]]:
    """A file of claims, by default that of the project, and what it says."""
    import yaml

    path = Path(path) if path is not None else project_root(root) / "book" / "claims.yml"
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SlimlibError(f"{path.name} is not YAML: {error}") from error
    studies.only(told, _PARTS, path.name, needed)
    return path, told


def _claim(entry: Mapping[str, Any], root: str | Path | None) -> Claim:
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
    for entry, arms in (("ours", (claim.ours,)), ("rivals", claim.rivals), ("controls", claim.controls)):
        if unknown := [arm for arm in arms if not is_arm(arm)]:
            raise SlimlibError(f"{where}: {entry}: {unknown[0]!r} is no rule of the book")
    if claim.stage not in SLIM_STAGES:
        raise SlimlibError(f"{where}: stage={claim.stage!r} must be one of {', '.join(SLIM_STAGES)}")
    with studies.errors_say(f"{where}: budgets"):
        if claim.kind == "paired" and (unknown := set(claim.budgets) - set(UNITS)):
            raise SlimlibError(f"{min(unknown)!r} must be one of {', '.join(UNITS)}")
        if claim.kind == "rank":
            [parse(budget) for budget in claim.budgets if budget != "any"]
    if unknown := set(claim.exclude or ()) - set(models.NAMES):
        raise SlimlibError(f"{where}: exclude: {min(unknown)!r} is no network; there are {', '.join(models.NAMES)}")
    _check_runs(claim, where, root)
    return claim


def _check_runs(claim: Claim, where: str, root: str | Path | None) -> None:
    """Refuse profiles, and studies of them, that are not there."""
    profiles = profile_names(root)
    for run in claim.runs:
        if not isinstance(run, Mapping) or set(run) != {"profile", "studies"} or run["profile"] not in profiles:
            raise SlimlibError(f"{where}: runs must name a profile ({', '.join(profiles)}) and its studies, not {run!r}")
        there = load_profile(run["profile"], root).studies
        if unknown := [name for name in studies.listed(run["studies"]) if name not in there]:
            raise SlimlibError(f"{where}: runs: {unknown[0]!r} is no study of {run['profile']}; it has {', '.join(there)}")
