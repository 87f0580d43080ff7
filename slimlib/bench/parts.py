"""The parts of the benchmark by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from slimlib.bench import overheads, prune, train, widths
from slimlib.bench.measure import Race

PARTS: dict[str, Callable[[], Iterable[Race]]] = {
    "import": overheads.import_races, "widths": widths.races, "prune": prune.races, "train": train.races,
    "notebook": overheads.notebook_races,
}
