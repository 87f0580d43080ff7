"""The text of a budget, "macs:0.35": what a network may keep, as it stands in profiles, records and keys of runs."""

from __future__ import annotations

from typing import NamedTuple

from slimlib.errors import SlimlibError

ARGUMENTS = {"macs": "keep_macs", "params": "keep_params", "threshold": "threshold"}
"""Kinds of budget, each with the argument of `slimlib.plan_widths` that states it."""


class Budget(NamedTuple):
    """A budget taken apart. Sorts as pages list budgets: MACs before parameters, small ones first."""

    kind: str
    value: float

    def __str__(self) -> str:
        """Short where that is exact, else with all digits: two budgets never share a text, and so a key of a run."""
        short = f"{self.value:g}"
        return f"{self.kind}:{short if float(short) == self.value else repr(float(self.value))}"

    def argument(self) -> dict[str, float]:
        """As an argument of `slimlib.plan_widths`: {"keep_macs": 0.35}."""
        return {ARGUMENTS[self.kind]: self.value}


def parse(text: str) -> Budget:
    """ "macs:0.35" is Budget("macs", 0.35). Raises SlimlibError for another kind, or a share outside (0, 1]."""
    kind, _, share = text.partition(":") if isinstance(text, str) else ("", "", "")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if kind not in ARGUMENTS or not 0 < value <= 1:
        raise SlimlibError(f"budget={text!r} is not understood; write e.g. 'macs:0.35', with a fraction in (0, 1]")
    return Budget(kind, value)
