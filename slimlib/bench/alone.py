"""One contestant, or one size of the growth table, in a process of its own: `python -m slimlib.bench.alone <what> <which>`.

The last line printed is JSON with ``peak_bytes``: the most memory that one process held, this one or a worker of it.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(arguments: list[str]) -> dict[str, Any]:
    from slimlib.bench import growth, parts
    from slimlib.study.provenance import peak_bytes

    what, which = arguments
    if what == growth.NAME:
        told = growth.measure(which)
    else:
        races = {race.name: race for part in parts.PARTS.values() for race in part()}
        told = {}
        races[what].contestants[which]()()
    return {"peak_bytes": peak_bytes(children=True), **told}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
