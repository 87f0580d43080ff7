"""One contestant, or one size of the growth table, in a process of its own: `python -m slimlib.bench.alone <what> <which>`.

The last line printed is JSON with ``peak_bytes``: the most memory that one process held, this one or a child of it.
"""

from __future__ import annotations

import json
import sys
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
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
