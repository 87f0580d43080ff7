"""What figures, tables and sentences call things: arms, budgets, networks, verdict-bearing numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from slimlib.errors import counted as counted  # for the pages too
from slimlib.study.budgets import parse

NAMES = {
    "pca": "PCA (3AS)",
    "pca_uncentred": "PCA, uncentred",
    "pca_folded": "PCA, BN folded in",
    "pca_budgeted": "PCA, budgeted",
    "pca_budgeted(folded=True)": "PCA, budgeted, folded",
    "activation_pca": "PCA of responses",
    "pca_at_init": "PCA, untrained",
    "global_l1": "global $\\ell_1$",
    "global_bn": "global BN",
    "neyman": "Neyman (ours)",
    "neyman_score": "V / T",
    "best_tilt": "best tilt",
    "sensitivity": "measured sensitivity",
    "hand": "by hand (Li et al.)",
}
ORDER = ("dense", "pca", "pca_uncentred", "pca_folded", "pca_budgeted", "pca_budgeted(folded=True)", "activation_pca",
         "neyman", "neyman_score", "sensitivity", "uniform", "global_l1", "global_bn", "hand", "tilt", "best_tilt",
         "random", "permuted", "pca_at_init", "depth")  # fmt: skip
"""Arms as figures and tables list them; `figures.LOOKS` has a colour and a marker for each."""
DATASETS = {
    "mnist": "MNIST",
    "fashionmnist": "Fashion-MNIST",
    "fashionmnist-10k": "Fashion-MNIST (10,000 images)",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
}
MODELS = {"lenet5": "LeNet-5", "vgg16": "VGG-16", "vgg_small": "small VGG", "resnet_small": "small ResNet"}
UNITS = {"macs": "MACs", "params": "parameters"}


def uncoupled(arm: str) -> str:
    """The arm without its coupling: "tilt(power=-0.5)" of "tilt_joint(power=-0.5)"; another arm as it is."""
    joint = re.fullmatch(r"(\w+)_joint(\(.*\))?", arm)
    known = joint and joint[1].removesuffix("_uncentred") in ORDER  # a label of one's own may end like that
    return joint[1] + (joint[2] or "") if joint and known else arm


def tilt_power(arm: str) -> float | None:
    """-0.5 of "tilt(power=-0.5)"; None of other arms, and of labels of one's own."""
    tilt = re.fullmatch(r"tilt\(power=([-+]?\d*\.?\d+(?:e[-+]?\d+)?)\)", arm)
    return float(tilt[1]) if tilt else None


def weight_free_power(arm: str | None) -> float | None:
    """The power of a tilt, of which `uniform` is the one of power 0; None of other arms."""
    return 0.0 if arm == "uniform" else tilt_power(arm or "")


PRETRAINED = ":pretrained"
"""What stands behind the architecture in a run's model where the weights are published ones."""


def is_pretrained(model: str) -> bool:
    """Whether a run's model has published weights."""
    return model.endswith(PRETRAINED)


def architecture(model: str) -> str:
    """A run's model without ":pretrained"."""
    return model.removesuffix(PRETRAINED)


def name(arm: str) -> str:
    """What figures and tables call an arm: "tilt(power=-0.5)" is "tilt −0.5"."""
    if (inner := uncoupled(arm)) != arm:
        return f"{name(inner)}, joint"
    if (power := tilt_power(arm)) is not None:
        return f"tilt {power:+g}".replace("-", "−")
    return NAMES.get(arm) or NAMES.get(re.split(r"[(]", arm)[0]) or arm.replace("_", " ")


def in_order(arms: Iterable[str]) -> list[str]:
    """Arms in the order of ORDER, variants behind their rule, labels of one's own last."""
    def place(arm: str) -> tuple[int, float, str]:
        known = _listed(arm)
        return ORDER.index(known) if known in ORDER else len(ORDER), tilt_power(uncoupled(arm)) or 0.0, arm

    return sorted(dict.fromkeys(arms), key=place)


def is_arm(text: str) -> bool:
    """Whether a rule of the book, or a variant of one, is called so."""
    return _listed(text) in ORDER


def _listed(arm: str) -> str:
    """The entry of ORDER that an arm has, if it has one."""
    bare = uncoupled(arm)
    return bare if bare in ORDER else bare.partition("(")[0]


def plain_name(arm: str) -> str:
    """The same where mathematics is not set: in sentences and tables."""
    return name(arm).replace("$\\ell_1$", "l1")


def capital(text: str) -> str:
    """The text with a capital, as a sentence begins."""
    return text[:1].upper() + text[1:]


def budget_name(budget: str) -> str:
    """ "macs:0.35" is "35 % of MACs"."""
    kind, value = parse(budget)
    return f"threshold {value:g}" if kind == "threshold" else f"{100 * value:g} % of {UNITS[kind]}"


def model_name(model: str) -> str:
    """ "resnet56:pretrained" is "published ResNet-56"."""
    bare = architecture(model)
    told = MODELS.get(bare) or re.sub(r"^resnet(\d+)$", r"ResNet-\1", bare)
    return f"published {told}" if is_pretrained(model) else told


def network_name(dataset: str, model: str) -> str:
    """ "mnist", "lenet5" is "LeNet-5 on MNIST"."""
    return f"{model_name(model)} on {DATASETS.get(dataset, dataset)}"


def slug(*parts: str) -> str:
    """A file name of such parts: "04-accuracy-mnist-lenet5"."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def duration(seconds: float) -> str:
    """ "27.9 hours", "4.0 minutes", "12 seconds"."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def points(value: float) -> str:
    """A difference of accuracies in percentage points: 0.0031 is "+0.31"."""
    return signed(100 * value)


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, minus as a minus sign; "–" where there is none."""
    return "–" if value != value else f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def interval(low: float, high: float, scale: float = 100) -> str:
    """ "[−0.10, +0.72]" in percentage points (scale 100), or as they are (scale 1); empty where there is none."""
    return "" if low != low or high != high else f"[{signed(scale * low)}, {signed(scale * high)}]"


def joined(parts: Iterable[str]) -> str:
    """ "10", "10 and 20", "10, 20 and 40"."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
