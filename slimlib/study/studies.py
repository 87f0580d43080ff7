"""Studies: the grids that a profile is made of, and the runs that a grid stands for.

A grid is one entry of a study:

    - dataset: mnist
      model: lenet5                     # one, or a list
      stage: prune
      arms: [pca, uniform, {rule: tilt, options: {power: -1}}]
      criterion: [l1]
      budget: ["macs:0.35", "params:0.35"]
      dense_recipe: dense               # a name under `recipes`
      recipe: finetune
      seeds: 5                          # optional; else the profile's
      seconds: 12                       # estimate of one run, until there are records to go by

Data sets, models, arms, criteria and budgets may be lists, and the grid is their product. The order is always seeds outermost,
so that a profile that was interrupted is balanced: it has fewer seeds, not fewer rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from slimlib import arguments, libraries, models
from slimlib.distillation import Distill
from slimlib.errors import SlimlibError
from slimlib.imagesets import NAMES
from slimlib.recipe import Recipe
from slimlib.study.names import is_pretrained
from slimlib.study.runs import Run

AXES = ("dataset", "model", "arms", "criterion", "budget")
_ENTRIES = {*AXES, "stage", "dense_recipe", "recipe", "distill", "coupling", "options", "seeds", "seconds"}


def by_seed(grids: Sequence[Mapping[str, Any]], seeds: tuple[int, ...]) -> dict[int, list[Run]]:
    """The runs of some grids, least seed first; ``seeds`` are those of a grid that names none."""
    found: dict[int, list[Run]] = defaultdict(list)
    for grid in grids:
        for seed in seeds_of(grid, seeds):
            found[seed] += expand(grid, seed)
    return dict(sorted(found.items()))


def expand(grid: Mapping[str, Any], seed: int) -> Iterator[Run]:
    """The runs of one grid and seed, in the order of its lists."""
    for dataset in listed(grid["dataset"]):
        for model in listed(grid["model"]):
            for budget in listed(grid.get("budget")):
                for criterion in listed(grid.get("criterion")):
                    for arm in listed(grid.get("arms")):
                        yield Run(
                            dataset,
                            model,
                            grid["stage"],
                            criterion=criterion,
                            budget=budget,
                            seed=seed,
                            recipe=grid.get("recipe"),
                            # published weights were not trained here, whatever the grid says of other models
                            dense_recipe=None if is_pretrained(model) else grid.get("dense_recipe"),
                            distill=grid.get("distill"),
                            **{"options": _options(grid), "coupling": grid.get("coupling", "inner"), **_arm(arm)},
                        )


def _arm(arm: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """ "pca", or {rule: pca, center: false, options: {...}, coupling: joint}."""
    if arm is None or isinstance(arm, str):
        return {"rule": arm}
    only(arm, {"rule", "center", "options", "coupling"}, f"arm {arm}")
    return {**arm, "options": _options(arm)} if "options" in arm else dict(arm)


def _options(told: Mapping[str, Any]) -> Mapping[str, Any]:
    options = told.get("options", {})
    if not isinstance(options, Mapping):
        raise SlimlibError(f"options={options!r} must be a mapping by name, such as {{power: -1}}")
    return options


def read_grid(
    grid: Mapping[str, Any], recipes: Mapping[str, Recipe], distill: Mapping[str, Distill], where: str
) -> dict[str, Any]:
    """A grid of a file, recipes in place of their names. Raises SlimlibError, saying ``where``, for what makes no runs."""
    only(grid, _ENTRIES, where)
    for name in ("dataset", "model", "stage", "seconds"):
        if name not in grid:
            raise SlimlibError(f"{where}: {name} is missing")
    if isinstance(grid["seconds"], bool) or not isinstance(grid["seconds"], int | float):
        raise SlimlibError(f"{where}: seconds={grid['seconds']!r} must be a number, the estimate of one run")
    if "seeds" in grid:
        must_be_seeds(grid["seeds"], where)
    read = dict(grid)
    for name, known in (("dense_recipe", recipes), ("recipe", recipes), ("distill", distill)):
        if name in grid:
            if grid[name] not in [*known]:  # a list, which may stand there by mistake, is no key to ask a mapping for
                raise SlimlibError(f"{where}: {name}={grid[name]!r} is not defined above; there are {', '.join(known)}")
            read[name] = known[grid[name]]
    for dataset in listed(grid["dataset"]):
        if dataset not in NAMES:
            raise SlimlibError(f"{where}: dataset={dataset!r} is unknown; choose one of {', '.join(NAMES)}")
    for model in listed(grid["model"]):
        if not isinstance(model, str):
            raise SlimlibError(f"{where}: {_unknown(model)}")
    with errors_say(where):
        for run in expand(read, seed=0):
            if not (run.architecture in models.NAMES or libraries.is_named(run.architecture)):
                raise SlimlibError(_unknown(run.model))
    return read


def _unknown(model: object) -> str:
    return f"model={model!r} is unknown; choose one of {', '.join(models.NAMES)}, or a library's"


def must_be_seeds(seeds: object, where: str) -> None:
    """Refuse what is neither a number of seeds nor a list of them."""
    if isinstance(seeds, bool) or not isinstance(seeds, int | list):
        raise SlimlibError(f"{where}: seeds={seeds!r} must be a number of seeds, or a list of them")
    with errors_say(where):
        for seed in seeds if isinstance(seeds, list) else ():
            arguments.seed("seeds", seed)


def made(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A recipe, or settings of distillation, from the entries of a file; errors say ``where`` it stands."""
    with errors_say(where):
        return kind(**values)


@contextmanager
def errors_say(where: str) -> Iterator[None]:
    """Errors within say ``where`` in a file what they are about stands."""
    try:
        yield
    except (TypeError, SlimlibError) as error:
        raise SlimlibError(f"{where}: {error}") from error


def seeds_of(told: Mapping[str, Any], otherwise: tuple[int, ...]) -> list[int]:
    """A list of seeds as it stands, or a number of them, from 0 on."""
    seeds = told.get("seeds", otherwise)
    return list(range(seeds)) if isinstance(seeds, int) else list(seeds)


def listed(value: Any) -> list[Any]:
    """A list as it stands; what is none as the only entry of one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def only(told: Any, known: set[str], where: str, needed: Iterable[str] = ()) -> None:
    """Refuse what is no mapping, has an entry that is not known, or lacks one that is needed, by its name."""
    if not isinstance(told, Mapping):
        raise SlimlibError(f"{where}: a mapping of {', '.join(sorted(known))} was expected, not {told!r}")
    if missing := set(needed) - set(told):
        raise SlimlibError(f"{where}: {min(missing)} is missing")
    if unknown := set(told) - known:
        raise SlimlibError(f"{where}: {sorted(unknown)[0]} is not understood; known are {', '.join(sorted(known))}")
