"""Timing contestants fairly on a machine that does other things as well.

Contestants take turns within one process, so that whatever slows the machine slows all of them. A ratio is taken within
each round and the median over rounds is reported with the quartiles: absolute times of a shared machine mean little, ratios
of neighbours in time mean much. Memory is measured in a process of its own, one a contestant, as a peak never falls.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from slimlib.errors import SlimlibError

Contestant = Callable[[], Callable[[], Any]]
"""Sets itself up and returns what is timed; that may return the seconds to count, a float, where not all it does should."""

RATIOS = {"speed": "at least", "time": "at most", "difference": "at most"}
"""How two times become one number, ours first: rival / ours, ours / rival, or ours - rival in seconds; and which way is good."""


@dataclass(frozen=True)
class Comparison:
    """One line of the table: ``ours`` against ``rival``, as a "speed", "time" or "difference", and the target if there is one."""

    ours: str
    rival: str
    kind: str
    target: float | None = None


@dataclass(frozen=True)
class Race:
    """Contestants that do the same work. ``agree`` is called once before, and raises if they do not. ``memory``: whether the most
    that each held is told, which is not known of contestants that start processes themselves."""

    name: str
    what: str
    contestants: Mapping[str, Contestant]
    comparisons: tuple[Comparison, ...]
    rounds: int = 5
    agree: Callable[[], None] | None = None
    memory: bool = True


def run(race: Race) -> dict[str, Any]:
    """The race's record: seconds of every round by contestant, peak memory of each, and the ratios."""
    if race.agree:
        race.agree()
    ready = {name: prepare() for name, prepare in race.contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    processor: dict[str, list[float | None]] = {name: [] for name in ready}
    for round_ in range(-1, race.rounds):  # one round to warm up, which does not count
        order = list(ready) if round_ % 2 else list(reversed(ready))
        for name in order:
            gc.collect()  # what one contestant leaves behind is not to be tidied up at another's expense
            taken, busy = timed(ready[name])
            if round_ >= 0:
                seconds[name].append(float(f"{taken:.6g}"))
                processor[name].append(busy)
    ready.clear()
    busy_seconds = {name: taken for name, taken in processor.items() if None not in taken}
    return {
        "name": race.name,
        "what": race.what,
        "seconds": seconds,
        "processor_seconds": busy_seconds,
        "peak_bytes": {name: alone(race.name, name)["peak_bytes"] for name in seconds} if race.memory else {},
        "comparisons": [compared(c, seconds, busy_seconds) for c in race.comparisons],
    }


def timed(work: Callable[[], Any]) -> tuple[float, float | None]:
    """Seconds of one call by the wall clock, or what the call says; and of processors, where that is known.

    The latter is the time of all threads, and of child processes that have ended: steadier where others use the machine too.
    """
    busy, start = _processor_seconds(), time.perf_counter()
    said = work()
    taken = time.perf_counter() - start
    return (said, None) if isinstance(said, float) else (taken, round(_processor_seconds() - busy, 4))


def _processor_seconds() -> float:
    return sum(os.times()[:4])


def compared(comparison: Comparison, seconds: Mapping[str, list[float]],
             processor: Mapping[str, list[float]] = MappingProxyType({})) -> dict[str, Any]:
    """Median and quartiles of the ratio within each round, and whether the target is met (None where there is none)."""
    c = comparison
    ratio = {"speed": lambda a, b: b / a, "time": lambda a, b: a / b, "difference": lambda a, b: a - b}[c.kind]
    low, median, high = quartiles([ratio(a, b) for a, b in zip(seconds[c.ours], seconds[c.rival], strict=True)])
    met = None if c.target is None else (median >= c.target if RATIOS[c.kind] == "at least" else median <= c.target)
    known = c.ours in processor and c.rival in processor and min(*processor[c.ours], *processor[c.rival]) > 0
    busy = quartiles([ratio(a, b) for a, b in zip(processor[c.ours], processor[c.rival], strict=True)])[1] if known else None
    return {"ours": c.ours, "rival": c.rival, "kind": c.kind, "median": median, "low": low, "high": high,
            "processor_median": busy, "target": c.target, "met": met}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of a single value, that value."""
    found = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return tuple(float(f"{v:.6g}") for v in found)


def alone(*work: str) -> dict[str, Any]:
    """What :mod:`slimlib.bench.alone` reports of work that has a process to itself: peak memory, and more by the work."""
    done = subprocess.run([sys.executable, "-m", "slimlib.bench.alone", *work], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SlimlibError(f"bench: {' '.join(work)} failed in a process of its own:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def finished(device: Any) -> None:
    """Wait until a GPU has done what it was told; on a CPU it has."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
