"""Profiles: which runs a book, a course or a study consists of, written down in notebooks/profiles/<name>.yml.

A profile names recipes, and studies made of grids (`slimlib.study.studies`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from slimlib.distillation import Distill
from slimlib.errors import SlimlibError
from slimlib.project import project_root
from slimlib.recipe import Recipe
from slimlib.study.runs import Run, with_needs
from slimlib.study.store import Store
from slimlib.study.studies import AXES, by_seed, expand, made, must_be_seeds, only, read_grid, seeds_of

_KINDS = {"evidence": (bool, "true or false"), "description": (str, "a text"), "records": (str, "the name of a folder"),
          "recipes": (dict, "recipes by name"),
          "distill": (dict, "settings of distillation by name"), "studies": (dict, "studies by name")}
_HEAD = {"name", "train", "seeds", *_KINDS}


def profile_names(root: str | Path | None = None) -> list[str]:
    return sorted(path.stem for path in (project_root(root) / "notebooks" / "profiles").glob("*.yml"))


@dataclass(frozen=True)
class Profile:
    """A set of runs, and how the book treats it.

    evidence  whether its results decide claims; otherwise they illustrate
    train     "live": notebooks train what is missing; "records": the book only reads what is committed
    """

    name: str
    evidence: bool
    train: str
    description: str
    records: str
    seeds: tuple[int, ...]
    root: Path
    studies: Mapping[str, tuple[Mapping[str, Any], ...]] = field(repr=False)

    def runs(self, study: str | Iterable[str] | None = None, **axes: Any) -> list[Run]:
        """The runs of one study or several, seeds outermost; of all studies, with all that they rest on, when None.

        Keywords replace an axis in every grid of the study, which is how a notebook's parameters reach its runs:
        `runs("pruning", seeds=[7], budget="macs:0.3")`. Axes: dataset, model, arms, criterion, budget, seeds; each a list, or
        one alone: `seeds=7` is seed 7.
        """
        unknown = set(axes) - {*AXES, "seeds"}
        if unknown:
            raise SlimlibError(
                f"{sorted(unknown)[0]} is no axis of a profile; choose from {', '.join((*AXES, 'seeds'))}"
            )
        names = list(self.studies) if study is None else [study] if isinstance(study, str) else list(study)
        for name in names:
            if name not in self.studies:
                raise SlimlibError(f"study={name!r} is not in profile {self.name!r}; it has {', '.join(self.studies)}")
        if isinstance(seed := axes.get("seeds"), int):
            axes = {**axes, "seeds": [seed]}  # in a file a number is how many
        if axes:
            planned = {name: by_seed([{**grid, **axes} for grid in self.studies[name]], self.seeds) for name in names}
        else:
            planned = self._planned
        seeds = sorted({seed for name in names for seed in planned[name]})
        runs = dict.fromkeys(run for seed in seeds for name in names for run in planned[name].get(seed, ()))
        return with_needs(runs) if study is None else list(runs)

    @cached_property
    def _planned(self) -> dict[str, dict[int, list[Run]]]:
        """Each study's runs by seed, made once: claims ask for them again and again."""
        return {name: by_seed(grids, self.seeds) for name, grids in self.studies.items()}

    def store(self) -> Store:
        """The store of this profile's records."""
        return Store(self.root / self.records, strict=self.evidence)

    @property
    def figure_data(self) -> Path:
        """The folder of what is behind the figures of a notebook: SLIMLIB_RESULTS, which slimlib sets to one beside the notebook
        that it executes; else (in Jupyter, by papermill) one that is not that of the book's pages."""
        return Path(os.environ.get("SLIMLIB_RESULTS") or self.root / "book" / "results" / "mine" / f"{self.name}-data")

    def estimates(self) -> dict[Run, float]:
        """Seconds of each run as the profile's file estimates them."""
        found: dict[Run, float] = {}
        for grids in self.studies.values():
            for grid in grids:
                for seed in seeds_of(grid, self.seeds):
                    for run in expand(grid, seed):
                        found.setdefault(run, float(grid["seconds"]))
        return found


def load_profile(name: str, root: str | Path | None = None) -> Profile:
    """Read and check notebooks/profiles/<name>.yml. Errors name the entry that is wrong."""
    root = project_root(root)
    if name not in profile_names(root):
        raise SlimlibError(f"profile={name!r} is unknown; choose one of {', '.join(profile_names(root))}")
    file = (root / "notebooks" / "profiles" / f"{name}.yml").stat()
    return _load(name, root, (file.st_mtime_ns, file.st_size))


@lru_cache(maxsize=8)
def _load(name: str, root: Path, version: tuple[int, int]) -> Profile:
    """`version` is the file's time and size: one that is edited in a running session is read anew."""
    import yaml

    path = root / "notebooks" / "profiles" / f"{name}.yml"
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SlimlibError(f"{path.name} is not YAML: {error}") from error
    only(told, _HEAD, path.name, needed=_HEAD - {"distill"})
    if told["name"] != name or told["train"] not in ("live", "records"):
        raise SlimlibError(f"{path.name}: name must be {name!r}, and train 'live' or 'records'")
    for entry, (kind, meant) in _KINDS.items():
        if entry in told and not isinstance(told[entry], kind):
            raise SlimlibError(f"{path.name}: {entry}={told[entry]!r} must be {meant}")
    must_be_seeds(told["seeds"], path.name)
    recipes = {key: made(Recipe, values, f"{path.name}: recipes.{key}") for key, values in told["recipes"].items()}
    distill = {
        key: made(Distill, values, f"{path.name}: distill.{key}") for key, values in told.get("distill", {}).items()
    }
    studies = {}
    for study, grids in told["studies"].items():
        if not isinstance(grids, list):
            raise SlimlibError(f"{path.name}: studies.{study} must be a list of grids, not {grids!r}")
        where = f"{path.name}: studies.{study}"
        studies[study] = tuple(read_grid(grid, recipes, distill, f"{where}[{i}]") for i, grid in enumerate(grids))
    return Profile(
        name,
        told["evidence"],
        told["train"],
        " ".join(told["description"].split()),
        told["records"],
        tuple(seeds_of(told, ())),
        root,
        studies,
    )


def status(profile: Profile, store: Store | None = None) -> dict[str, Any]:
    """How far a profile has come.

    {"profile", "runs", "recorded", "missing", "seconds_recorded", "seconds_left"}; under "studies" the runs and recorded of
    each; under "unlisted" the keys of records in its folder that no profile has a run for, as after an edit of a recipe. The
    time of a run to come is the mean of recorded ones like it, else the estimate in the file.
    """
    store, runs = store or profile.store(), profile.runs()
    records = {run: record for run in runs if (record := store.get(run)) is not None}
    like: dict[tuple[Any, ...], list[float]] = {}
    for run, record in records.items():
        like.setdefault(_kind(run), []).append(record["provenance"]["seconds"])
    estimates = profile.estimates()
    left = [
        sum(like[_kind(run)]) / len(like[_kind(run)]) if _kind(run) in like else estimates.get(run, 0.0)
        for run in runs
        if run not in records
    ]
    studies = {study: profile.runs(study) for study in profile.studies}
    others = [load_profile(name, profile.root) for name in profile_names(profile.root)]
    listed = {run.key for other in (profile, *others) if other.records == profile.records for run in other.runs()}
    return {
        "profile": profile.name,
        "runs": len(runs),
        "recorded": len(records),
        "missing": len(runs) - len(records),
        "seconds_recorded": round(sum(record["provenance"]["seconds"] for record in records.values()), 1),
        "seconds_left": round(sum(left), 1),
        "unlisted": sorted(store.keys() - listed),
        "studies": {
            name: {"runs": len(of), "recorded": sum(run in records for run in of)} for name, of in studies.items()
        },
    }


def _kind(run: Run) -> tuple[Any, ...]:
    """What the duration of a run depends on."""
    return run.dataset, run.model, run.stage, run.budget, run.recipe
