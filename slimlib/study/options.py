"""The options of a run: which there are in its stage or of its rule, and which must be given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any

from slimlib.errors import SlimlibError
from slimlib.rules import RULES

OF_STAGE = {"dense": (), "sensitivity": ("images", "ratios", "split")}
"""Those of the stages that choose no widths; of the others they are the rule's."""


def must_fit(stage: str, rule: str | None, told: Mapping[str, Any]) -> None:
    """Refuse options that nothing would read, and a rule that lacks one."""
    takes, needs = (OF_STAGE[stage], ()) if stage in OF_STAGE else _of_rule(rule)
    if odd := [name for name in told if name not in takes]:
        whose = f"stage {stage!r}" if stage in OF_STAGE else f"rule {rule!r}"
        raise SlimlibError(f"options: {odd[0]!r} has no effect in {whose} (its own: {', '.join(takes) or 'none'}); leave it out")
    if missing := [name for name in needs if told.get(name) is None]:
        raise SlimlibError(f"options: rule {rule!r} needs {missing[0]}; see slimlib.rules")


@cache
def _of_rule(rule: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a rule takes, and what of it must be given. In place of measured losses, which its scan gives, the rule "sensitivity"
    is told the ratio at which they are read."""
    if rule is None:
        return (), ()
    own = list(signature(RULES[rule]).parameters.values())[1:]  # the first is what all rules read
    takes = tuple("ratio" if option.name == "drops" else option.name for option in own)
    return takes, tuple(option.name for option in own if option.default is option.empty and option.name != "drops")
