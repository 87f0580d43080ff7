"""Records and checkpoints on disk: safe to share between processes, safe to kill at any moment.

A record is one JSON file, the evidence; it belongs in git. A checkpoint is a safetensors file in a cache folder outside
git; it can always be made again. Both appear under their final name only when complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimlib.errors import SlimlibError
from slimlib.files import cache_folder, replacing
from slimlib.imagesets import KNOWN
from slimlib.study import budgets
from slimlib.study.locks import drop_if_dead, locked
from slimlib.study.runs import RECIPE_VERSION, Run
from slimlib.tensor_files import read_tensors, refused_if_damaged, write_tensors

if TYPE_CHECKING:
    import pandas as pd
    import torch


def default_cache() -> Path:
    """The folder of checkpoints and locks: ``SLIMLIB_CACHE``, else ``slimlib`` in the user's cache folder."""
    return cache_folder("SLIMLIB_CACHE")


class Store:
    """The records under `root`, and a cache for checkpoints and locks.

    root    folder of records: <root>/<dataset>-<model>/<key>.json
    cache   folder of checkpoints; None means `default_cache()`
    strict  refuse a run beside records that rest on another dense network (`networks.same_start`): for evidence
    """

    def __init__(self, root: str | Path, cache: str | Path | None = None, strict: bool = False) -> None:
        self.root, self.strict = Path(root), strict
        self.cache = Path(cache) if cache is not None else default_cache()

    def path(self, run: Run) -> Path:
        return self.root / run.folder / f"{run.key}.json"

    def checkpoint_path(self, run: Run) -> Path:
        return self.cache / "checkpoints" / run.folder / f"{run.key}.safetensors"

    def get(self, run: Run) -> dict[str, Any] | None:
        """The run's record, or None if there is none."""
        try:
            content = self.path(run).read_bytes()
        except FileNotFoundError:
            return None
        record = _parse(content, self.path(run))
        if record.get("key") != run.key:
            raise SlimlibError(
                f"{self.path(run)} holds the record of run {record.get('key')!r}; delete it or rename it"
            )
        return record

    def put(self, run: Run, record: dict[str, Any]) -> Path:
        """Write the run's record; readers see the old file or the new one, never a part of one."""
        text = json.dumps(
            {"key": run.key, "label": run.label, "run": run.to_dict(), "recipe_version": RECIPE_VERSION, **record},
            indent=1,
            allow_nan=False,
            ensure_ascii=False,
        )
        with replacing(self.path(run)) as temporary:
            temporary.write_text(_compact(text) + "\n", encoding="utf-8")
        return self.path(run)

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Those of the runs that have no record, in their order."""
        return [run for run in runs if not self.path(run).exists()]

    def keys(self) -> set[str]:
        """Of every file under the root that is named as a record is, whatever is in it."""
        return {path.stem for path in self.root.glob("*/*.json") if re.fullmatch("[0-9a-f]{12}", path.stem)}

    def all(self, folder: str = "*") -> list[dict[str, Any]]:
        """Every record of today's recipe version under the root, or in one folder of it, sorted by folder and key. Files that are
        not named by a key are others'."""
        paths = (path for path in sorted(self.root.glob(f"{folder}/*.json")) if re.fullmatch("[0-9a-f]{12}", path.stem))
        return [record for path in paths if (record := _parse(path.read_bytes(), path)).get("recipe_version") == RECIPE_VERSION]

    def save_checkpoint(self, run: Run, model: torch.nn.Module, **told: Any) -> Path:
        """Write the model's state; `told` (JSON values) travels in the file's header, e.g. the accuracy it reached."""
        with replacing(self.checkpoint_path(run)) as temporary:
            write_tensors(temporary, model.state_dict(), {"key": run.key, "told": json.dumps(told)})
        return self.checkpoint_path(run)

    def load_checkpoint(self, run: Run, model: torch.nn.Module) -> dict[str, Any] | None:
        """Fill `model` from the run's checkpoint and return what was told with it; None if there is no checkpoint.

        Raises SlimlibError for a damaged file and for another run's: such files are copied by hand (`networks.same_start`).
        """
        path, remedy = self.checkpoint_path(run), "copy the run's own there, or delete it and the run is made again"
        if not path.exists():
            return None
        with refused_if_damaged(f"{path}, the checkpoint of {run.label},", remedy):
            tensors, texts = read_tensors(path)
        if not {"key", "told"} <= texts.keys():  # which every version has written
            raise SlimlibError(f"{path} was not written by slimlib as a checkpoint; {remedy}")
        if texts["key"] != run.key:
            raise SlimlibError(f"{path} is the checkpoint of run {texts['key']!r}, not of {run.key} ({run.label}); {remedy}")
        model.load_state_dict(tensors)
        return json.loads(texts["told"])

    def lock(self, run: Run, wait: bool = True) -> AbstractContextManager[None]:
        """Hold the run for this process; others wait, or get `RunBusy` when wait=False. See `slimlib.study.locks`."""
        return locked(self._lock_path(run), run.label, wait)

    def drop_dead_lock(self, run: Run) -> None:
        """Remove what a process left that was killed at this run, even if only between its record and the unlocking."""
        drop_if_dead(self._lock_path(run))

    def _lock_path(self, run: Run) -> Path:
        return self.cache / "locks" / run.folder / f"{run.key}.lock"


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    """The record in a file, if it is one."""
    remedy = "delete it and the run is made again"
    try:
        record = json.loads(content)
    except ValueError as error:  # broken JSON, or text that is not UTF-8
        raise SlimlibError(f"{path} is not valid JSON ({error}); {remedy}") from error
    if not isinstance(record, dict) or not {"key", "run"} <= set(record):
        raise SlimlibError(f"{path} holds no record of a run; {remedy}")
    try:
        run = Run.from_dict(record["run"])
    except (TypeError, SlimlibError) as error:
        raise SlimlibError(f"{path} holds a run that this version of slimlib does not know ({error}); {remedy}") from error
    if record.get("recipe_version") == RECIPE_VERSION and record["key"] != run.key:
        raise SlimlibError(f"{path}: key {record['key']!r} is not that of its run, {run.key}: the file was edited; {remedy}")
    return record


def _compact(text: str) -> str:
    """JSON with plain lists on one line each: a record stays readable and its diff short."""
    short = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r"\n\s*", " ", found.group(1)) + "]", text)
    return short if json.loads(short) == json.loads(text) else text  # brackets within a string are no list


def _identity(dataset: str, data: Mapping[str, Any]) -> str | None:
    """The SHA-256 of a record's images, by which two are known to have seen the same; None where it does not tell, as copies are
    accepted that differ in a few test images (`slimlib.imagesets`)."""
    return None if dataset in KNOWN and KNOWN[dataset].may_differ else data.get("sha256")


def network_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """(data set, model) of a record."""
    return record["run"]["dataset"], record["run"]["model"]


def to_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a record: the run's fields, its metrics and costs, and its key, by which every number can be followed.

    budget_kind and budget_value split "macs:0.35"; `arm` is the rule with its variant; kept_params and kept_macs are
    achieved fractions. recipe, dense_recipe and distill are texts, equal where the settings are.
    """
    import pandas as pd

    rows = []
    for record in records:
        run = Run.from_dict(record["run"])
        kind, value = budgets.parse(run.budget) if run.budget else (None, None)
        row: dict[str, Any] = {"key": record["key"], "dataset": run.dataset, "model": run.model, "stage": run.stage}
        row |= {"rule": run.rule, "arm": run.arm, "criterion": run.criterion, "budget": run.budget}
        row |= {"budget_kind": kind, "budget_value": value, "seed": run.seed}
        row |= dict(run.options)
        row |= record.get("metrics", {})
        cost = record.get("cost", {})
        row |= cost
        for unit in ("params", "macs"):
            if cost.get(unit) is not None and cost.get(f"dense_{unit}"):
                row[f"kept_{unit}"] = cost[unit] / cost[f"dense_{unit}"]
        row["threshold"] = record.get("threshold")
        for name in ("recipe", "dense_recipe", "distill"):
            settings = getattr(run, name)
            row[name] = None if settings is None else str(settings)
        row["data_sha256"] = _identity(run.dataset, record["provenance"].get("data") or {})
        row["dense_sha256"] = record.get("dense_sha256")
        row["seconds"] = record["provenance"]["seconds"]
        rows.append(row)
    return pd.DataFrame(rows)
