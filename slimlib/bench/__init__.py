"""`make bench`: ratios of slimlib's speed to limits and rivals, taken side by side, in one JSON file and one page.

The file is book/records/bench/<machine>.json. A part that is run again replaces what the file says of it, and carries its own
commit and time, so that a change can be checked by running one part.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError

PAGE = "11_speed"
PROFILE = "laptop"  # the page is rendered from records, with the other evidence


def main(only: Iterable[str] = (), full: bool = False, output: str | Path | None = None, page: bool = True,
         rounds: int | None = None) -> Path:
    """Run the benchmark, or the parts named in ``only``; write the record, render the page; returns the record's path.

    ``full`` adds the largest layers to the growth table; ``rounds`` replaces each race's own number. Raises SlimlibError, before
    anything is measured, for an unknown part and for an ``output`` that cannot take the record.
    """
    from slimlib.bench.growth import NAME as GROWTH
    from slimlib.bench.parts import PARTS
    from slimlib.files import folder_must_exist
    from slimlib.notebooks import execute
    from slimlib.project import project_root

    known = [*PARTS, GROWTH]
    chosen = list(only) or known
    if unknown := [name for name in chosen if name not in known]:
        raise SlimlibError(f"--only {unknown[0]}: no part of the benchmark; choose from {', '.join(known)}")
    path = Path(output) if output else project_root() / "book" / "records" / "bench" / f"{machine_name()}.json"
    if output:
        folder_must_exist(path, "--output")
    _recorded(path)  # so that what cannot be added to is refused now
    for part in chosen:
        print(f"bench: {part} ...", file=sys.stderr, flush=True)
        _write(path, part, _measured(part, full, rounds))
    print(summary(json.loads(path.read_text(encoding="utf-8")), chosen))
    if page and not output:
        root = project_root()
        execute(root / "notebooks" / f"{PAGE}.ipynb", root / "book" / "results" / PROFILE / f"{PAGE}.ipynb",
                {"profile": PROFILE}, root=root, page=True)
        print(f"The page: book/results/{PROFILE}/{PAGE}.ipynb; make book shows it with the others")
    return path


def machine_name() -> str:
    """What the record is called: the device and the threads, without anything that names a host."""
    import torch

    from slimlib.study.provenance import machine

    told = machine("cuda" if torch.cuda.is_available() else "cpu")
    text = told.get("gpu") or f"{told['cpu']} threads {told['threads']}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _measured(part: str, full: bool, rounds: int | None) -> dict[str, Any]:
    from dataclasses import replace

    import torch

    from slimlib.bench import growth, measure
    from slimlib.bench.parts import PARTS
    from slimlib.study.provenance import machine, recorded

    with recorded() as told:
        if part == growth.NAME:
            found: dict[str, Any] = {"sizes": growth.table(full)}
        else:
            races = PARTS[part]()
            found = {"races": [measure.run(replace(race, rounds=rounds or race.rounds)) for race in races]}
    told["machine"] = machine("cuda" if torch.cuda.is_available() else "cpu")
    del told["peak_memory"], told["notes"], told["precision"]
    return {**found, "provenance": told}


def _write(path: Path, part: str, found: dict[str, Any]) -> None:
    from slimlib.files import replacing

    record = _recorded(path)
    record["parts"][part] = found
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _recorded(path: Path) -> dict[str, Any]:
    """What a file tells so far, if it is a record of the benchmark or not there yet."""
    if path.is_dir():
        raise SlimlibError(f"--output {str(path)!r} is a folder; name a file in it")
    if not path.exists():
        return {"parts": {}}
    try:
        record = json.loads(path.read_bytes())
        sound = all("provenance" in part for part in record["parts"].values())
    except (ValueError, LookupError, TypeError, AttributeError):  # no JSON, or JSON of something else
        sound = False
    if not sound:
        raise SlimlibError(f"--output {str(path)!r} holds no record of the benchmark, and would be lost; name another file")
    return record


def rows(record: dict[str, Any], parts: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """One row a comparison: what, ours, rival, kind, median, low, high, target, met, and the peak bytes of both."""
    return [
        {"part": name, "race": race["name"], "what": race["what"], **line,
         "our_bytes": race["peak_bytes"].get(line["ours"]), "rival_bytes": race["peak_bytes"].get(line["rival"])}
        for name, part in record["parts"].items() if parts is None or name in parts
        for race in part.get("races", ()) for line in race["comparisons"]
    ]


def summary(record: dict[str, Any], parts: Iterable[str] | None = None) -> str:
    """The comparisons as lines of plain text."""
    from slimlib.bench.measure import RATIOS

    lines = []
    for row in rows(record, parts):
        number = {"speed": "{:.3g} x the speed of", "time": "{:.3g} x the time of", "difference": "{:+.2f} s on top of"}
        text = f"{row['race']}: {row['ours']} has {number[row['kind']].format(row['median'])} {row['rival']}"
        spread = f" ({row['low']:.3g} to {row['high']:.3g})"
        verdict = "" if row["met"] is None else (f"; target {RATIOS[row['kind']]} {row['target']:g}: "
                                                 + ("met" if row["met"] else "missed"))
        lines.append(text + spread + verdict)
    return "\n".join(lines)
