"""The widths chosen for a network, as a plain value that files hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import groupby
from numbers import Real
from pathlib import Path
from textwrap import fill

from slimlib.cost import UNITS
from slimlib.errors import SlimlibError, counted, first_line
from slimlib.files import must_exist, saving
from slimlib.layout import COUPLINGS, Layout

BOUND_BY_RANK = dict.fromkeys(("pca", "pca_folded", "pca_at_init", "permuted"), "filters") | {
    "activation_pca": "responses to the calibration images"}
"""Rules whose path ends where the rank of something does; one of one's own may end for reasons of its own."""


@dataclass(frozen=True, kw_only=True)
class WidthPlan:
    """The widths chosen for a network, what they cost, and how they were chosen.

    ``widths`` and ``full_widths`` map the first layer of each slimmed group to its number of filters. Costs: ``params`` in
    elements, ``macs`` in multiply-adds of one example. ``threshold`` is the level of the path, None where the rule has none:
    for PCA rules the share of variance, for ``uniform`` the kept fraction, for ``tilt``, ``sensitivity`` and ``hand`` a
    number of the rule's own scale, which may exceed 1 or be negative. ``wider`` holds the costs of the next plan on the path,
    None at its end. ``whole`` says of each layer left at full width why. ``rank_bound`` names the groups that the rule can
    never keep whole (by PCA, as a layer of p weights a filter has at most p - 1 centred components), with the most that its path
    gives them; what filling adds beside the path may exceed it. ``input_shape`` and ``input_dtype`` are those of the example that
    the network was traced with. ``print(plan)`` shows all of it as a table.
    """

    rule: str
    coupling: str
    widths: dict[str, int]
    full_widths: dict[str, int]
    threshold: float | None
    params: int
    macs: int
    full_params: int
    full_macs: int
    input_shape: tuple[int, ...]
    wider: dict[str, int] | None = None
    whole: dict[str, str] = field(default_factory=dict)
    rank_bound: dict[str, int] = field(default_factory=dict)
    input_dtype: str = "float32"
    layout: Layout | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return (f"WidthPlan(rule={self.rule!r}, coupling={self.coupling!r}, keep_macs={self.keep_macs:.4f}, "
                f"keep_params={self.keep_params:.4f}, widths={self.widths})")

    def __str__(self) -> str:
        """A row a slimmed layer, the costs, and the layers left whole by reason."""
        return "\n".join(self._lines())

    def _repr_pretty_(self, printer, cycle: bool) -> None:
        """What a notebook shows."""
        printer.text(str(self))

    @property
    def kept(self) -> dict[str, float]:
        """Kept fraction of each group's filters."""
        return {n: w / self.full_widths[n] for n, w in self.widths.items()}

    @property
    def keep_params(self) -> float:
        """Achieved share of the dense network's parameters."""
        return self.params / self.full_params

    @property
    def keep_macs(self) -> float:
        """Achieved share of the dense network's multiply-adds."""
        return self.macs / self.full_macs

    def _lines(self) -> Iterator[str]:
        column = max(map(len, ("layer", *self.widths)))
        yield f"{'layer':<{column}}  full  kept  fraction"
        for name, width in self.widths.items():
            bound = self.rank_bound.get(name)
            by = "by rank" if self.rule in BOUND_BY_RANK else "by the rule"
            note = f"  {by} at most {bound}{', filled beyond' * (width > bound)}" if bound else ""
            yield f"{name:<{column}}  {self.full_widths[name]:>4}  {width:>4}  {self.kept[name]:>8.3f}{note}"
        level = "" if self.threshold is None else f", level {self.threshold:.6g}"
        yield f"rule {self.rule}, coupling {self.coupling}{level}"
        yield (f"parameters {self.params:,} of {self.full_params:,} ({self.keep_params:.1%}), "
               f"MACs {self.macs:,} of {self.full_macs:,} ({self.keep_macs:.1%})")
        if self.whole:
            yield f"left whole: {counted(len(self.whole), 'layer')}"
        by_reason = groupby(sorted(self.whole, key=self.whole.get), key=self.whole.get)  # sorted is stable: layers in order
        for reason, layers in by_reason:
            yield fill(f"{reason}: {', '.join(layers)}", 110, initial_indent="  ", subsequent_indent="    ",
                       break_on_hyphens=False)

    def to_dict(self) -> dict:
        """Everything but the traced layout, as plain JSON types."""
        bare = asdict(replace(self, layout=None))
        bare.pop("layout")
        return {**bare, "input_shape": list(self.input_shape)}

    @classmethod
    def from_dict(cls, values: Mapping) -> WidthPlan:
        """The inverse of :meth:`to_dict`; unknown or missing entries are refused by name."""
        if not isinstance(values, Mapping):
            raise SlimlibError(f"plan: a {type(values).__name__} holds no entries of a plan; was it written by WidthPlan.save?")
        known = {f.name for f in fields(cls)} - {"layout"}
        if wrong := (set(values) ^ known) - {"input_dtype"}:  # which plans of earlier versions have not
            raise SlimlibError(f"plan: the entries {', '.join(sorted(wrong))} are missing or not known; "
                               "was it written by this version?")
        for name, (holds, meant) in _ENTRIES.items():
            if name in values and not holds(values[name]):
                raise SlimlibError(f"plan: {name}={values[name]!r} must be {meant}")
        widths, full = values["widths"], values["full_widths"]
        if wrong := [name for name in {**full, **widths} if not 1 <= widths.get(name, 0) <= full.get(name, 0)]:
            raise SlimlibError(f"plan: widths[{wrong[0]!r}]={widths.get(wrong[0])!r} must be a whole number from 1 to the full "
                               f"width, which is {full.get(wrong[0])!r}")
        return cls(**{**values, "input_shape": tuple(values["input_shape"])})

    @classmethod
    def from_json(cls, text: str, where: str) -> WidthPlan:
        """:meth:`from_dict` of a JSON text; ``where`` it was found is told in the error."""
        try:
            return cls.from_dict(json.loads(text))
        except ValueError as error:  # as which SlimlibError and broken JSON are known
            raise SlimlibError(f"{where} holds no plan that WidthPlan.save wrote: {first_line(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; the file is there when it is complete. Raises SlimlibError where it cannot be written."""
        with saving(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> WidthPlan:
        """Read a plan that :meth:`save` wrote. Raises SlimlibError where there is no such file, or none of a plan in it."""
        must_exist(path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # as which broken text is known
            raise SlimlibError(f"path={str(path)!r} holds no plan that WidthPlan.save wrote: {first_line(error)}") from error
        return cls.from_json(text, f"path={str(path)!r}")


def _whole(value: object) -> bool:
    """Whether a value from a file is a whole number; JSON's true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: object) -> bool:
    return _whole(value) and value >= 1


def _text(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _by_name(value: object, holds: Callable[[object], bool]) -> bool:
    """Whether a value from a file is a mapping from names to what ``holds``."""
    return isinstance(value, Mapping) and all(_text(name) and holds(one) for name, one in value.items())


_A_COST = (_positive, "a whole number, at least 1")
_WIDTHS = (lambda v: _by_name(v, _whole), "a whole number for each layer")
_ENTRIES: dict[str, tuple[Callable[[object], bool], str]] = {
    "rule": (_text, "the name of a rule"),
    "coupling": (lambda v: v in COUPLINGS, " or ".join(map(repr, COUPLINGS))),
    "widths": _WIDTHS, "full_widths": _WIDTHS,  # how they bound each other is seen to beside
    "threshold": (lambda v: v is None or _number(v), "a number or null"),  # of any size: a level may be on a rule's own scale
    "params": _A_COST, "macs": _A_COST, "full_params": _A_COST, "full_macs": _A_COST,
    "input_shape": (lambda v: isinstance(v, Sequence) and len(v) > 0 and all(map(_positive, v)),
                    "a list of whole numbers, at least 1"),
    "wider": (lambda v: v is None or (_by_name(v, _positive) and v.keys() == set(UNITS)),
              f"null, or whole numbers for {' and '.join(UNITS)}"),
    "whole": (lambda v: _by_name(v, _text), "a reason for each layer"),
    "rank_bound": (lambda v: _by_name(v, _positive), "a whole number, at least 1, for each layer"),
    "input_dtype": (_text, "the name of a type of torch, such as float32"),
}  # fmt: skip
"""What each entry of a plan's file holds, whichever version wrote it, and how that is said."""
