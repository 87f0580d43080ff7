"""What a rule that chooses widths may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from slimlib import spectrum
from slimlib.cost import CostModel
from slimlib.errors import SlimlibError
from slimlib.layout import Group, Layout


@dataclass(frozen=True)
class Request:
    """What every rule may read: the network, its layout and costs, and the budget's unit."""

    model: nn.Module
    layout: Layout
    groups: tuple[Group, ...]
    costs: CostModel
    unit: str
    coupling: str
    center: bool
    seed: int
    given_spectra: Mapping[str, np.ndarray] | None

    @property
    def full(self) -> np.ndarray:
        return np.array([g.width for g in self.groups])

    def spectra(self, model: nn.Module | None = None, folded: bool = False) -> list[np.ndarray]:
        """Eigenvalues of every group, those handed in where there are any."""
        if self.given_spectra is not None and model is None and not folded:
            missing = [g.name for g in self.groups if len(self.given_spectra.get(g.name, ())) != g.width]
            if missing:
                raise SlimlibError(f"spectra: no spectrum of the right length for {', '.join(missing[:3])}; "
                                   "make them with the same coupling")
            return [np.asarray(self.given_spectra[g.name], float) for g in self.groups]
        found = spectrum.layout_spectra(model or self.model, self.layout, self.center, self.coupling, folded)
        return [found[g.name] for g in self.groups]
