"""A profile as a list of jobs, for whatever distributes them: notebooks/Snakefile, or a scheduler's own array."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slimlib.errors import SlimlibError
from slimlib.study.profiles import Profile
from slimlib.study.runs import Run


def jobs(profile: Profile, runs: Iterable[Run] | None = None) -> list[dict[str, Any]]:
    """Those of the profile's runs (or of `runs`) that have no record yet, what is needed before what needs it, as plain values.

    key, label, seconds (the profile's estimate), record (the path of its record, from the project's root) and needs (the
    paths of the records it starts from, whether they are there or not).
    """
    store, estimates = profile.store(), profile.estimates()

    def path(run: Run) -> str:
        return store.path(run).relative_to(profile.root).as_posix()

    return [
        {
            "key": run.key,
            "label": run.label,
            "seconds": estimates.get(run, 0.0),
            "record": path(run),
            "needs": [path(needed) for needed in run.needs()],
        }
        for run in store.missing(profile.runs() if runs is None else runs)
    ]


def chosen(profile: Profile, keys: Iterable[str] | None = None, seeds: Iterable[int] | None = None) -> list[Run]:
    """The profile's runs, or those of some keys, or of some seeds, in its order. What they start from is not listed."""
    runs = by_key(profile, keys) if keys else profile.runs()
    if seeds is None:
        return runs
    wanted, known = set(seeds), sorted({run.seed for run in profile.runs()})
    if unknown := wanted - set(known):
        raise SlimlibError(f"seed {min(unknown)} is not in profile {profile.name!r}; it has {', '.join(map(str, known))}")
    found = [run for run in runs if run.seed in wanted]
    if not found:
        raise SlimlibError(f"none of the runs {', '.join(keys or ())} is of the seeds {', '.join(map(str, sorted(wanted)))}; "
                           "give keys or seeds, or those that go together")
    return found


def by_key(profile: Profile, keys: Iterable[str]) -> list[Run]:
    """The profile's runs of these keys. The first digits of a key will do, where they name one run only."""
    runs, found = profile.runs(), []
    for key in keys:
        fitting = [run for run in runs if run.key.startswith(key)]
        if len(fitting) != 1:
            raise SlimlibError(
                f"key={key!r} names {len(fitting)} runs of profile {profile.name!r}; "
                f"python -m slimlib train {profile.name} --list tells the keys of those that are missing"
            )
        found += fitting
    return found
