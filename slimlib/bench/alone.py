"""One contestant, or one size of the growth table, in a process of its own: `python -m slimlib.bench.alone <what> <which>`.

The last line printed is JSON with ``peak_bytes``: the most memory that one process held, this one or a child of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> dict[str, Any]:
    from slimlib.bench import growth, parts

    what, which = arguments
    if what == growth.NAME:
        told = growth.measure(which)
    else:
        races = {race.name: race for part in parts.PARTS.values() for race in part()}
        told = {}
        races[what].contestants[which]()()
    return {"peak_bytes": peak_bytes(), **told}


def peak_bytes() -> int | None:
    """The most memory of this process or any of its finished children; None where the system does not say (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    children = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss starts from the parent's, which may be larger than all that happens here
        own = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return max(1024 * int(own.split()[1]), children)
    return max(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
