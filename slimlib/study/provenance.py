"""Where a number comes from: code, versions, machine, data, time. Attached to every record and every notebook."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import pandas as pd

ARITHMETIC = ("threads", "instructions")  # of a CPU: what decides, beside the processor, how sums are rounded
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "torch-pruning", "slimlib")


@cache
def code_version() -> dict[str, Any]:
    """{"commit": 40 hex digits or None, "dirty": bool or None} of the checkout this package lies in.

    None where there is no git or no checkout (an installed package, also one that lies in another project's checkout).
    Looked up once a process, as its study begins: the code that runs is what was imported, whatever is committed meanwhile.
    "dirty" looks at code only: records, books and prose written beside it do not change what a run does.
    """
    root = Path(__file__).resolve().parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root:
        return {"commit": None, "dirty": None}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", "slimlib", "notebooks")
    return {"commit": commit or None, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(("git", *arguments), cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def versions() -> dict[str, str | None]:
    """Python and the packages that decide a number; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            loaded = sys.modules.get(package.replace("-", "_"))
            found[package] = getattr(loaded, "__version__", None)
    return found


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The hardware a run used, and the instructions chosen on it, by which sums are rounded. No host or user name is told."""
    device = torch.device(device)
    told: dict[str, Any] = {
        "device": device.type,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # "AVX2", "AVX512", ...
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        told |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": _driver()}
        told["cudnn"] = torch.backends.cudnn.version()
        told["float32_convolutions"] = torch.backends.cudnn.conv.fp32_precision  # "tf32" where it may be rounded to that
        told["float32_products"] = torch.backends.cuda.matmul.fp32_precision
    return told


@cache
def _driver() -> str | None:
    try:
        query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def peak_bytes(children: bool = False) -> int | None:
    """The most memory that this process held so far, or with `children` any of those that have ended; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    theirs = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if children else 0
    status = Path("/proc/self/status")  # on Linux ru_maxrss starts from the parent's, which may be larger
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return max(1024 * int(found[1]) if found else unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, theirs)


def peak_memory(device: torch.device | str = "cpu") -> dict[str, int]:
    """The most memory used so far, in bytes: of this process, and on the GPU where there is one."""
    peak = {"process_bytes": own} if (own := peak_bytes()) is not None else {}
    if torch.device(device).type == "cuda":
        peak["gpu_bytes"] = torch.cuda.max_memory_allocated(device)
    return peak


@contextmanager
def recorded(data: Any = None) -> Iterator[dict[str, Any]]:
    """A dictionary that is the complete provenance when the block ends.

    Of `data`, a `slimlib` Data, name, source, SHA-256 and notes are kept. The block sets "precision" once training has chosen it.
    """
    device = getattr(data, "device", "cpu")
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    told: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": None,
        "notes": [],
    }
    code, clock = code_version(), time.perf_counter()  # the code first: a run may take hours, in which more is committed
    yield told
    told["seconds"] = round(time.perf_counter() - clock, 3)
    told["peak_memory"] = peak_memory(device)
    told["machine"] = machine(device)
    told["code"] = code
    told["versions"] = versions()
    if data is not None:
        told["data"] = {
            "name": data.name,
            "source": data.source,
            "sha256": data.sha256,
            "notes": dict(data.notes or {}),
        }


def provenance_table(
    parameters: Mapping[str, Any] | None = None,
    records: list[dict[str, Any]] | None = None,
    data: Any = None,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """What a notebook ends with: its parameters, this machine and code, and the records its numbers come from.

    One row a fact, indexed by its name. Records of several commits or devices are all named, with how many of each.
    """
    import pandas as pd

    code, here = code_version(), machine(device if device is not None else getattr(data, "device", "cpu"))
    rows = [(f"parameter {name}", value) for name, value in (parameters or {}).items()]
    rows.append(("rendered (UTC)", datetime.now(UTC).strftime("%Y-%m-%d %H:%M")))
    rows.append(("code", _commit(code)))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions().items() if version)))
    rows.append(("machine", ", ".join(f"{name} {value}" for name, value in here.items())))
    if data is not None:
        rows.append(("data", f"{data.name} ({data.source}), SHA-256 {data.sha256}"))
    if records:
        told = [record["provenance"] for record in records]
        rows.append(("records", f"{len(records)}: {', '.join(sorted(record['key'] for record in records))}"))
        rows.append(("records, seeds", _tally(record["run"]["seed"] for record in records)))
        rows.append(("records, code", _tally(_commit(one["code"]) for one in told)))
        rows.append(("records, device", _tally(one["machine"].get("gpu") or one["machine"]["cpu"] for one in told)))
        rows += [(f"records, {what}", _tally(one["machine"].get(what, "not told") for one in told)) for what in ARITHMETIC]
        rows.append(("records, precision", _tally(one["precision"] for one in told)))
        rows.append(("records, data SHA-256", _tally(one["data"]["sha256"] for one in told if "data" in one)))
        rows.append(("records, computing time", f"{sum(one['seconds'] for one in told) / 60:.1f} min"))
        rows += [("note", note) for note in sorted({note for one in told for note in one["notes"]})]
    table = pd.DataFrame([(name, str(value)) for name, value in rows], columns=["fact", "value"])
    return table.set_index("fact")


def _commit(code: Mapping[str, Any]) -> str:
    if not code["commit"]:
        return "not in a git checkout"
    return code["commit"][:12] + (" with uncommitted changes" if code["dirty"] else "")


def _tally(values: Iterable[Any]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in sorted(Counter(map(str, values)).items()))
