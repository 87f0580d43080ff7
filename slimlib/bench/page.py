"""What the page of the book shows of a benchmark's record: tables, two figures, and what the machine was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from slimlib.bench import rows
from slimlib.bench.measure import RATIOS
from slimlib.errors import SlimlibError
from slimlib.project import project_root
from slimlib.study.figures import BLACK, BLUE, GREEN, GREY, ORANGE, RED, WIDE, nothing

SIZE_COLUMNS = ["axis", "size", "params", "trace_seconds", "choose_seconds", "eigenvalue_seconds", "bytes_before", "peak_bytes"]
COMPARISON_COLUMNS = ["part", "race", "what", "ours", "rival", "kind", "median", "low", "high", "processor_median", "target",
                      "met", "our_bytes", "rival_bytes"]  # fmt: skip
SAYS = {"speed": "{:.3g} × the speed", "time": "{:.3g} × the time", "difference": "{:+.2f} s"}
AXES = {"width": "filters of each layer", "depth": "layers", "network": "ResNet", "layer": "linear layer, out x in"}

TICKS = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 1.5, 2, 3, 5, 7)]
"""Of a logarithmic axis that spans less than a power of ten or a little more."""
NAMES = {"axis": "what grows", "size": "size", "params": "parameters", "trace_seconds": "trace (s)",
         "choose_seconds": "choose widths (s)", "eigenvalue_seconds": "eigenvalues (s)", "peak": "peak (MiB)"}


def load(name: str | None = None, folder: str | Path | None = None) -> tuple[str, dict[str, Any]]:
    """(machine, record) of one machine, by default the one measured last."""
    folder = Path(folder) if folder else project_root() / "book" / "records" / "bench"
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise SlimlibError("no benchmark is recorded yet: run make bench")
    if name is not None and name not in found:
        raise SlimlibError(f"record={name!r} is not there; choose one of {', '.join(found)}")
    name = name or max(found, key=lambda n: max(part["provenance"]["started"] for part in found[n]["parts"].values()))
    return name, found[name]


def comparisons(record: dict[str, Any]) -> pd.DataFrame:
    """One row a comparison: numbers as they are in the record, and `closeness`, above 1 where the target of a ratio is met with
    room; a difference has none."""
    table = pd.DataFrame(rows(record), columns=COMPARISON_COLUMNS)
    good = table["kind"].map(RATIOS) == "at least"
    closeness = (table["median"] / table["target"]).where(good, table["target"] / table["median"])
    return table.assign(closeness=closeness.where(table["kind"] != "difference"))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons as a reader wants them: text with units, one row each."""
    def result(row: Any) -> str:
        return f"{SAYS[row.kind].format(row.median)} ({row.low:.3g} to {row.high:.3g})"

    def target(row: Any) -> str:
        return "" if pd.isna(row.target) else f"{RATIOS[row.kind]} {row.target:g}"

    verdict = table["met"].map({True: "met", False: "missed"}).fillna("")
    found = pd.DataFrame({
        "work": table["race"], "slimlib": table["ours"], "against": table["rival"],
        "result (quartiles)": [result(row) for row in table.itertuples()],
        "by processor time": table["processor_median"].map("{:.3g}".format, na_action="ignore").fillna(""),
        "target": [target(row) for row in table.itertuples()], "verdict": verdict,
        "memory, MiB": [_both_mib(a, b) for a, b in zip(table["our_bytes"], table["rival_bytes"], strict=True)],
    })
    return found.set_index("work")


def works(record: dict[str, Any]) -> pd.DataFrame:
    """What was timed, a line each, with the median seconds of every contestant."""
    found = {race["name"]: (race["what"], ", ".join(f"{name} {pd.Series(taken).median():.3g} s"
                                                    for name, taken in race["seconds"].items()))
             for part in record["parts"].values() for race in part.get("races", ())}
    return pd.DataFrame(found.values(), index=pd.Index(found, name="work"), columns=["what was done", "median seconds"])


def targets(table: pd.DataFrame) -> Figure:
    """How far each ratio is from its target, on a logarithmic axis: right of the line it is met. Quartiles as bars."""
    aimed = table[table["closeness"].notna()].reset_index(drop=True)
    if aimed.empty:
        return nothing("nothing that has a target has been measured on this machine")
    fig, axis = plt.subplots(figsize=(WIDE, 0.9 + 0.36 * len(aimed)))
    for y, row in aimed.iterrows():
        colour = GREEN if row["met"] else RED
        ends = [value / row["target"] if RATIOS[row["kind"]] == "at least" else row["target"] / value
                for value in (row["low"], row["high"])]
        axis.plot(ends, [y, y], color=colour, linewidth=2.4)
        axis.plot(row["closeness"], y, "o" if row["met"] else "X", color=colour, markeredgecolor="white", markersize=8)
    axis.axvline(1, color=BLACK, linewidth=1)
    axis.set_yticks(range(len(aimed)), [f"{row['race']}: {row['ours']}\nagainst {row['rival']}" for _, row in aimed.iterrows()],
                    fontsize=7.5)
    axis.set(xscale="log", xlabel="margin: times better than the target (right of the line: met)", ylim=(len(aimed) - 0.4, -0.6))
    low, high = axis.get_xlim()
    axis.set_xticks(at := [tick for tick in TICKS if low <= tick <= high], [f"{tick:g}" for tick in at])
    axis.set_xticks([], minor=True)
    return fig


def sizes(record: dict[str, Any]) -> pd.DataFrame:
    """The growth table, one row a size; empty where that part has not been measured."""
    return pd.DataFrame(record["parts"].get("growth", {"sizes": []})["sizes"], columns=SIZE_COLUMNS)


def shown_sizes(sizes: pd.DataFrame) -> pd.DataFrame:
    """The growth table as a reader wants it: short names with units, one row a size."""
    table = sizes.assign(peak=sizes["peak_bytes"].map(_mib), params=sizes["params"].map("{:,}".format))
    seconds = [name for name in SIZE_COLUMNS if name.endswith("_seconds")]
    table[seconds] = table[seconds].map("{:.3f}".format)
    return table[list(NAMES)].rename(columns=NAMES).set_index([NAMES["axis"], NAMES["size"]])


def growth(sizes: pd.DataFrame) -> Figure:
    """Seconds to trace, to choose widths and of the bare eigenvalue calls, and peak memory, by size; one column an axis."""
    if sizes.empty:
        return nothing("the growth of cost has not been measured on this machine")
    axes_of = [axis for axis in AXES if axis in set(sizes["axis"])]
    fig, axes = plt.subplots(2, len(axes_of), figsize=(WIDE, 4.6), sharex="col", sharey="row", squeeze=False)
    for column, axis in enumerate(axes_of):
        part, upper, lower = sizes[sizes["axis"] == axis], axes[0, column], axes[1, column]
        at = range(len(part))
        for what, colour, marker in (("trace", GREY, "s"), ("choose", BLUE, "o"), ("eigenvalue", ORANGE, "^")):
            upper.plot(at, part[f"{what}_seconds"], marker=marker, color=colour, label=_LINES[what])
        lower.plot(at, part["peak_bytes"] / 2**20, marker="D", color=GREEN, label="peak of the process")
        lower.plot(at, part["bytes_before"] / 2**20, marker=".", linestyle="--", color=GREY, label="before: libraries, tracing")
        upper.set(yscale="log", title=AXES[axis])
        upper.title.set_fontsize(8.5)
        lower.set_xticks(at, [text.removeprefix("resnet") for text in part["size"]], rotation=90 if axis == "layer" else 0,
                         fontsize=7.5)
    axes[1, 0].set_ylim(bottom=0)  # once all panels are drawn: they share the axis, and this fixes its top
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("memory, MiB")
    handles = [entry for axis in axes[:, 0] for entry in zip(*axis.get_legend_handles_labels(), strict=True)]
    fig.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=3)
    return fig


_LINES = {"trace": "trace the network", "choose": "all spectra and one budget", "eigenvalue": "bare eigenvalue calls"}


def provenance(name: str, record: dict[str, Any]) -> pd.DataFrame:
    """Of each part: when, on what, with which code and versions."""
    found = {}
    for part, told in record["parts"].items():
        p = told["provenance"]
        commit = f"{(p['code']['commit'] or 'no git')[:12]}{' with changes' if p['code']['dirty'] else ''}"
        m = p["machine"]
        found[part] = (p["started"], m.get("gpu") or m["cpu"], f"{m['threads']} of {m['cores']}", p["versions"]["torch"], commit,
                       f"{p['seconds']:.0f}")
    columns = ["started (UTC)", "processor", "threads of cores", "torch", "code", "seconds"]
    return pd.DataFrame(found.values(), index=pd.Index(found, name=f"part of {name}"), columns=columns)


def _both_mib(ours: float | None, rival: float | None) -> str:
    return "–" if pd.isna(ours) and pd.isna(rival) else f"{_mib(ours)} / {_mib(rival)}"


def _mib(value: float | None) -> str:
    return "?" if pd.isna(value) else f"{value / 2**20:,.0f}"
