"""Claims: written down in book/claims.yml before the runs, with the rules by which `judgement` judges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError
from slimlib.project import project_root
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


def published_layers(path: str | Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """What Li et al. (2017) say of layers, by claims.yml: {architecture: [{"layers": groups, "source": who says what of them}]}.

    `exclude`, where it stands, names groups that are on neither side.
    """
    import yaml

    path = Path(path) if path is not None else project_root() / "book" / "claims.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["published_sensitivity"]


def changelog(path: str | Path | None = None) -> list[dict[str, str]]:
    """What was changed in claims.yml after it was written: [{"date", "what"}], oldest first."""
    import yaml

    path = Path(path) if path is not None else project_root() / "book" / "claims.yml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["changelog"] or []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"date", "what"}:
            raise SlimlibError(f"{path.name}: changelog entry {entry!r} must have a date and say what was changed")
    return [{name: str(value) for name, value in entry.items()} for entry in entries]


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
