"""What a rule that chooses widths may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from slimlib import spectrum
from slimlib.cost import CostModel
from slimlib.errors import SlimlibError
from slimlib.layout import Group, Layout


@dataclass(frozen=True, eq=False)
class Request:
    """What every rule may read: the network, its layout and costs, and the budget's unit."""

    model: nn.Module
    layout: Layout
    groups: tuple[Group, ...]
    costs: CostModel
    unit: str
    coupling: str
    given_center: bool
    given_seed: int
    given_spectra: Mapping[str, np.ndarray] | None
    asked: set[str] = field(default_factory=set, repr=False)  # which of the last three things given the rule has read

    @property
    def center(self) -> bool:
        """Whether each filter is centred by its own mean before PCA."""
        self.asked.add("center")
        return self.given_center

    @property
    def seed(self) -> int:
        """Of what a rule draws."""
        self.asked.add("seed")
        return self.given_seed

    def unread(self) -> str:
        """What the caller has given, other than the default, and the rule has not read: else a wish would be passed over."""
        given = {"center=False": ("center", not self.given_center), "spectra": ("spectra", self.given_spectra is not None)}
        return " and ".join(told for told, (name, is_given) in given.items() if is_given and name not in self.asked)

    @property
    def full(self) -> np.ndarray:
        """Widths of the dense network, in the order of ``groups``; shape (groups,)."""
        return np.array([g.width for g in self.groups])

    def spectra(self, model: nn.Module | None = None, folded: bool = False) -> list[np.ndarray]:
        """Eigenvalues of every group, descending, each of shape (width,); those handed in where there are any."""
        if self.given_spectra is not None and model is None and not folded:
            self.asked.update(("spectra", "center"))  # they are centred, or not, already
            missing = [g.name for g in self.groups if np.shape(self.given_spectra.get(g.name))[:1] != (g.width,)]
            if missing:
                raise SlimlibError(f"spectra: no spectrum of the right length for {', '.join(missing[:3])}; "
                                   "make them with the same coupling")
            return [spectrum.must_descend(self.given_spectra[g.name], g.name) for g in self.groups]
        found = spectrum.layout_spectra(model or self.model, self.layout, self.center, self.coupling, folded)
        return [found[g.name] for g in self.groups]
