"""A Run: everything that decides the outcome of one experiment, and nothing else.

Two runs that would train the same network on the same data in the same way are equal and share one key; changing any
field changes the key. The key names the run's record, so a record can never be mistaken for that of another run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from slimlib import arguments
from slimlib.criteria import CRITERIA
from slimlib.distillation import Distill
from slimlib.errors import SlimlibError
from slimlib.layout import COUPLINGS
from slimlib.recipe import Recipe
from slimlib.rules import RULES
from slimlib.study import budgets, names, options
from slimlib.study.canonical import frozen, option_of, with_declared_floats, without_none

RECIPE_VERSION = 2
"""Raised when the meaning of a run changes (widths, augmentation, schedule, loss), so that old records are not reused.

2: budgets are filled up, so that all arms of a comparison cost the same to within a channel.
"""

STAGES = ("dense", "prune", "distill", "scratch", "sensitivity")
SLIM_STAGES = ("prune", "distill", "scratch")


@dataclass(frozen=True)
class Run:
    """One experiment.

    dataset       a name that `slimlib.load_data` knows: "mnist"
    model         a name that `slimlib.models.build` knows, "lenet5"; with ":pretrained" appended, published weights
    stage         "dense"        train the full network (or only evaluate it, when pretrained)
                  "prune"        cut the dense network to the plan's widths, then fine-tune
                  "distill"      train a fresh network of these widths, taught by the dense one
                  "scratch"      train a fresh network of these widths, untaught
                  "sensitivity"  accuracy against pruning one layer at a time; nothing is trained
    rule          how the widths are chosen: "pca", "uniform", ... (the slim stages)
    criterion     which filters stay: "l1", ... (prune and sensitivity)
    budget        "macs:0.35", "params:0.35" or "threshold:0.9" (the slim stages)
    coupling      "inner" or "joint": whether layers that share a width may be slimmed
    center        whether each filter is centred by its own mean before PCA
    recipe        how this stage trains; None where it does not
    dense_recipe  how the dense network was trained; None when pretrained
    distill       the distillation losses (distill)
    seed          of initialisation, data order and of rules that draw at random
    options       further arguments, name by name: those of the rule, or of the sensitivity scan
    """

    dataset: str
    model: str
    stage: Literal["dense", "prune", "distill", "scratch", "sensitivity"]
    rule: str | None = None
    criterion: str | None = None
    budget: str | None = None
    coupling: str = "inner"
    center: bool = True
    recipe: Recipe | None = None
    dense_recipe: Recipe | None = None
    distill: Distill | None = None
    seed: int = 0
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        self._to_one_form()
        known = {"stage": STAGES, "rule": (None, *RULES), "criterion": (None, *CRITERIA), "coupling": COUPLINGS}
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                raise SlimlibError(f"{name}={value!r} is unknown; choose one of {', '.join(filter(None, choices))}")
        slim, wants = self.stage in SLIM_STAGES, {}
        wants["rule"] = wants["budget"] = slim
        wants["criterion"] = self.stage in ("prune", "sensitivity")
        wants["recipe"] = slim or (self.stage == "dense" and not self.pretrained)
        wants["dense_recipe"] = self.stage != "dense" and not self.pretrained
        wants["distill"] = self.stage == "distill"
        options.must_fit(self.stage, self.rule, dict(self.options))
        for name, wanted in wants.items():
            value = getattr(self, name)
            if wanted and value is None:
                raise SlimlibError(f"{name}=None: a run of stage {self.stage!r} on {self.model!r} needs a {name}")
            if not wanted and value is not None:
                raise SlimlibError(f"{name}={value!r} has no effect in stage {self.stage!r} on {self.model!r}; leave it out")

    def _to_one_form(self) -> None:
        """What is written differently and means the same becomes the same, as values come from YAML, JSON and Python."""
        given = self.options.items() if isinstance(self.options, Mapping) else self.options
        rule = RULES.get(self.rule) if isinstance(self.rule, str) else None
        told = {str(name): option_of(rule, name, frozen(value)) if rule else frozen(value) for name, value in given}
        form: dict[str, Any] = {"center": arguments.flag("center", self.center), "seed": arguments.seed("seed", self.seed)}
        form["options"] = tuple(sorted(told.items()))
        for name in ("recipe", "dense_recipe", "distill"):
            if (settings := getattr(self, name)) is not None:
                form[name] = with_declared_floats(settings)
        if self.budget is not None:
            form["budget"] = str(budgets.parse(self.budget))
        for name, value in form.items():
            object.__setattr__(self, name, value)

    @property
    def pretrained(self) -> bool:
        return names.is_pretrained(self.model)

    @property
    def architecture(self) -> str:
        """The model's name without ":pretrained"."""
        return names.architecture(self.model)

    @property
    def folder(self) -> str:
        """The folder of this run's record and checkpoint."""
        return f"{self.dataset}-{self.model}".replace(":", "-").replace("/", "-")

    @cached_property  # claims ask every run of a profile for it, again and again
    def arm(self) -> str | None:
        """The rule with what distinguishes its variants: "pca", "pca_uncentred", "pca_joint", "tilt(power=-0.5)"."""
        if self.rule is None:
            return None
        told = [f"{name}={value}" for name, value in self.options if name not in ("calibration", "images")]
        variant = ("" if self.center else "_uncentred") + ("" if self.coupling == "inner" else f"_{self.coupling}")
        return self.rule + variant + (f"({', '.join(told)})" if told else "")

    @property
    def label(self) -> str:
        """One line for progress bars and logs."""
        split = dict(self.options).get("split")
        parts = (self.dataset, self.model, self.stage, self.arm, self.criterion, self.budget, split, f"seed {self.seed}")
        return " · ".join(part for part in parts if part)

    def dense(self) -> Run:
        """The run that makes the dense network this one starts from. Pretrained weights know no seed."""
        if self.stage == "dense":
            return self
        return Run(self.dataset, self.model, "dense", recipe=self.dense_recipe, seed=0 if self.pretrained else self.seed)

    def needs(self) -> list[Run]:
        """The runs that must be done before this one: the dense network, and for the rule "sensitivity" its scan."""
        if self.stage == "dense":
            return []
        needed = [self.dense()]
        if self.rule == "sensitivity":
            needed.append(self.sensitivity_scan())
        return needed

    def sensitivity_scan(self) -> Run:
        """The sensitivity scan, at its default ratios, of the dense network this run starts from."""
        seed = 0 if self.pretrained else self.seed
        return Run(self.dataset, self.model, "sensitivity", criterion=self.criterion or "l1", coupling=self.coupling,
                   dense_recipe=self.dense_recipe, seed=seed)

    def but(self, **changes: Any) -> Run:
        """The same run with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as they stand in JSON; options as a mapping."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("recipe", "dense_recipe", "distill"):
            plain[name] = asdict(plain[name]) if plain[name] is not None else None
        plain["options"] = dict(self.options)
        return json.loads(json.dumps(plain, allow_nan=False))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Run:
        values = dict(plain)
        for name, kind in (("recipe", Recipe), ("dense_recipe", Recipe), ("distill", Distill)):
            if values.get(name) is not None:
                values[name] = kind(**values[name])
        return cls(**values)

    def canonical(self) -> str:
        """The JSON text that is hashed: sorted names, no spaces, entries that are None left out.

        What is None says nothing, so a field added later, with None for "as before", keeps the keys of old records.
        """
        return json.dumps(without_none(self.to_dict()), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def key(self) -> str:
        """12 hexadecimal digits: SHA-256 over the recipe version and the canonical JSON."""
        return hashlib.sha256(f"{RECIPE_VERSION}\n{self.canonical()}".encode()).hexdigest()[:12]


def with_needs(runs: Iterable[Run]) -> list[Run]:
    """The runs and all they rest on, each once, what is needed before what needs it, else in the order given."""
    ordered: dict[Run, None] = {}
    for run in runs:
        for needed in with_needs(run.needs()):
            ordered.setdefault(needed)
        ordered.setdefault(run)
    return list(ordered)
