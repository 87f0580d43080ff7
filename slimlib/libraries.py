"""Classification networks of torchvision and timm by name: "torchvision:resnet50", "timm:resnet50". timm is optional."""

from __future__ import annotations

from difflib import get_close_matches
from types import ModuleType

from torch import nn

from slimlib._torchvision import import_torchvision
from slimlib.errors import SlimlibError


def is_named(name: str) -> bool:
    """Whether the name is of the form "library:network"."""
    return name.startswith(("torchvision:", "timm:"))


def build(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """The network with fresh weights. Raises SlimlibError for one that the library lacks, or if timm is not installed."""
    library, _, network = name.partition(":")
    if library == "timm":
        return _timm_with(name).create_model(network, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    if in_channels != 3:
        raise SlimlibError(f"in_channels={in_channels}, but torchvision's networks take 3: give colour images, or take the "
                           f'network from timm, whose take any number: "timm:{network}"')
    models = import_torchvision().models
    if network not in models.list_models(module=models):
        raise SlimlibError(f"name={name!r}: torchvision.models has no classification network {network!r}"
                           f"{_like(network, models.list_models(module=models))}")
    options = {"init_weights": True} if network in ("googlenet", "inception_v3") else {}
    return models.get_model(network, weights=None, num_classes=num_classes, **options)


def usual_input(name: str) -> tuple[int, int, int]:
    """(C, H, W) of the images that the network is usually trained on."""
    library, _, network = name.partition(":")
    if library == "timm":
        known = _timm_with(name).get_pretrained_cfg(network)
        return tuple(known.input_size) if known else (3, 224, 224)
    return (3, 299, 299) if network == "inception_v3" else (3, 224, 224)


def _timm_with(name: str) -> ModuleType:
    """The module ``timm``, if it has the network."""
    import_torchvision()  # timm imports it, and its operators may have to be declared first
    try:
        import timm
    except ModuleNotFoundError as error:
        raise SlimlibError(f"name={name!r} needs timm, which is not installed: pip install timm") from error
    network = name.partition(":")[2]
    if not timm.is_model(network):
        raise SlimlibError(f"name={name!r}: timm has no network {network!r}{_like(network, timm.list_models())}")
    return timm


def _like(network: str, known: list[str]) -> str:
    near = get_close_matches(network, known)
    return f"; did you mean {', '.join(near)}?" if near else ""
