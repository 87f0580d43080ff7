"""What a page shows: the runs of a profile that it asks for, those of them that are recorded, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slimlib.errors import SlimlibError
from slimlib.study import budgets
from slimlib.study.execution import ensure
from slimlib.study.names import duration, network_name
from slimlib.study.profiles import Profile, load_profile
from slimlib.study.runs import Run
from slimlib.study.store import network_of, to_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evidence:
    """Runs that a page asks for, and the records there are. Partial evidence is told as "n of N", never filled up."""

    profile: Profile
    runs: tuple[Run, ...]
    records: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        kind = "recorded evidence" if self.profile.evidence else "an illustration trained on this machine"
        if not self.runs:
            return f"Profile {self.profile.name} ({kind}) has no such runs."
        took = duration(sum(record["provenance"]["seconds"] for record in self.records))
        told = f"Profile {self.profile.name} ({kind}): {n_of(len(self.records), len(self.runs))}"
        return told + (f", in {took} of computing." if self.records else ".")

    def _repr_markdown_(self) -> str:
        return str(self)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """`to_frame` of the records, budgets in order; empty when nothing is recorded."""
        frame = to_frame(self.records)
        if len(frame) and frame["budget"].notna().all():
            frame = frame.sort_values("budget", key=lambda b: b.map(budgets.parse), kind="stable", ignore_index=True)
        return frame

    def networks(self) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
        """((data set, model), its part of the frame), one after the other; those without a record are left out."""
        frame = self.frame
        for dataset, model in dict.fromkeys((run.dataset, run.model) for run in self.runs):
            part = frame[(frame["dataset"] == dataset) & (frame["model"] == model)] if len(frame) else frame
            if len(part):
                yield (dataset, model), part.reset_index(drop=True)

    def of(self, dataset: str, model: str) -> list[dict[str, Any]]:
        """The records of one network."""
        return [record for record in self.records if network_of(record) == (dataset, model)]

    def coverage(self) -> pd.DataFrame:
        """One row a network: runs recorded and expected, and which seeds are whole."""
        return coverage(self.runs, self.records)


def gather(
    profile: str, stage: str, studies: str | Sequence[str] | None = None, train: bool = True, **axes: Any
) -> Evidence:
    """The runs of one stage in a profile, and their records: those missing are trained if the profile is live and `train` is.

    studies   one or several; None means all studies of the profile in which the stage occurs
    axes      as of `Profile.runs`; None leaves the axis as the profile has it. Models, and arms as `Run.arm` names them,
              that the profile knows choose among its runs; others take their place.
    """
    chosen = load_profile(profile)
    studies = [studies] if isinstance(studies, str) else studies
    names = [name for name in studies or chosen.studies if any(g["stage"] == stage for g in chosen.studies.get(name, ()))]
    if studies is not None and len(names) < len(studies):
        wrong = next(name for name in studies if name not in names)
        raise SlimlibError(f"studies={wrong!r} has no runs of stage {stage!r} in profile {profile!r}; leave it out")
    given = {axis: value for axis, value in axes.items() if value is not None}
    planned, among = [run for run in chosen.runs(names) if run.stage == stage], {}
    for axis, of in (("model", "model"), ("arms", "arm")):
        wanted = [given[axis]] if isinstance(given.get(axis), str) else given.get(axis)
        texts = wanted is not None and all(isinstance(one, str) for one in wanted)
        if texts and set(wanted) <= {getattr(run, of) for run in planned}:
            among[of] = set(wanted)
            del given[axis]
    runs = [run for run in chosen.runs(names, **given) if run.stage == stage
            and all(getattr(run, of) in wanted for of, wanted in among.items())]
    live = train and chosen.train == "live"
    records = ensure(runs, chosen.store(), train=live, progress=live)
    return Evidence(chosen, tuple(runs), tuple(records))


def coverage(runs: Iterable[Run], records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a network and stage: how many of the runs are recorded, the seeds that are whole, and what is missing."""
    import pandas as pd

    there = {record["key"] for record in records}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((network_name(run.dataset, run.model), run.stage), []).append(run)
    rows = []
    for (network, stage), of in groups.items():
        missing = [run for run in of if run.key not in there]
        seeds = sorted({run.seed for run in of})
        whole = [seed for seed in seeds if seed not in {run.seed for run in missing}]
        row = {"network": network, "stage": stage, "runs recorded": n_of(len(of) - len(missing), len(of), "")}
        row |= {"complete seeds": f"{len(whole)} of {len(seeds)}"}
        row["missing"] = "all of them" if len(missing) == len(of) else _missing(missing)
        rows.append(row)
    columns = ["network", "stage", "runs recorded", "complete seeds", "missing"]
    return pd.DataFrame(rows, columns=columns).set_index("network")


def _missing(missing: Sequence[Run]) -> str:
    """ "seed 3: 12; seed 4: 90"."""
    counts = Counter(run.seed for run in missing)
    if len(set(counts.values())) == 1 and len(counts) > 1:
        return f"{next(iter(counts.values()))} of each of the seeds {', '.join(map(str, sorted(counts)))}"
    return "; ".join(f"seed {seed}: {count}" for seed, count in sorted(counts.items())) or "nothing"


def n_of(recorded: int, expected: int, what: str = " runs recorded") -> str:
    """ "312 of 450 runs recorded"."""
    return f"{recorded} of {expected}{what}"
