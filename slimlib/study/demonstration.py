"""The network that a chapter computes with while the reader looks on, without training where a profile only reads records."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

import slimlib
from slimlib import models
from slimlib.data import Data, with_normalisation
from slimlib.errors import SlimlibError
from slimlib.files import data_folder
from slimlib.randomness import seeded
from slimlib.study.execution import trained
from slimlib.study.names import network_name
from slimlib.study.profiles import Profile, load_profile
from slimlib.study.runs import Run


@dataclass(frozen=True)
class AtHand:
    """A network in evaluation mode, the data it takes, and in words which network it is."""

    network: nn.Module
    data: Data
    label: str


def network_at_hand(profile: Profile, model: str | None = None, seed: int = 0) -> AtHand:
    """A network of the profile to look into: its first residual one, or ``model``, one of its dense runs.

    A live profile trains it if it is missing. A profile of records trains nothing and downloads nothing: it takes published
    weights whose files are there, else the trained network of the quick profile, else that network untrained; ``label`` says
    which. Raises SlimlibError for a model that the profile does not have.
    """
    runs: dict[str, Run] = {}
    for run in profile.runs("dense", seeds=[seed]):
        runs.setdefault(run.model, run)  # on the first of several data sets
    if model is not None and model not in runs:
        raise SlimlibError(f"model={model!r} is not in profile {profile.name!r}; it has {', '.join(runs)}")
    wanted = runs[model or next((name for name in runs if name.startswith("resnet")), next(iter(runs)))]
    if profile.train == "live":
        network, data = trained(wanted, profile.store())
        return AtHand(network, data, f"{network_name(wanted.dataset, wanted.model)}, seed {seed}, trained on this machine")
    if _published_here(wanted):
        data = with_normalisation(slimlib.load_data(wanted.dataset), *models.PRETRAINED_NORMALISATION)
        network = models.pretrained(f"{wanted.dataset}/{wanted.architecture}").to(data.device)
        return AtHand(network, data, network_name(wanted.dataset, wanted.model))
    return _of_the_quick_profile()


def _published_here(run: Run) -> bool:
    if not run.pretrained:
        return False
    weights = (data_folder() / "weights").glob(f"{run.architecture}-*.th")
    return (data_folder() / f"{run.dataset}.npz").exists() and any(weights)


def _of_the_quick_profile() -> AtHand:
    quick = load_profile("quick")
    store = quick.store()
    run = next(run for run in quick.runs("dense") if run.model.startswith("resnet"))
    if store.get(run) is not None and store.checkpoint_path(run).exists():
        network, data = trained(run, store)
        return AtHand(network, data, f"{network_name(run.dataset, run.model)}, from the quick profile")
    data = slimlib.load_data(run.dataset)
    with seeded(run.seed):
        network = models.build(run.architecture, data.num_classes, data.input_shape[0]).to(data.device).eval()
    return AtHand(network, data, f"{network_name(run.dataset, run.model)}, UNTRAINED: run the quick profile first")
