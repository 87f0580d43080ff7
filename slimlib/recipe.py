"""How a network is trained: one frozen description, shared by every arm of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from slimlib import arguments
from slimlib.errors import SlimlibError

_CHOICES = {"schedule": ("onecycle", "cosine", "constant"), "augment": ("none", "crop", "crop_flip"),
            "precision": ("auto", "float32", "bfloat16"),
            "compile": (False, True, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")}


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on besides model, data and seed.

    SGD with momentum; the weight decay applies to all parameters, biases and batch normalisation included, as in the
    studies that the book compares with.

    Attributes:
        epochs: passes over the training split; each has floor(images / batch_size) steps, the rest of the images,
            different ones each time, being left out.
        batch_size: images a step, over all processes together.
        lr: the peak learning rate.
        momentum: of SGD, in [0, 1).
        weight_decay: not below 0.
        nesterov: Nesterov's form of the momentum.
        schedule: after the warm-up, "onecycle" falls linearly to zero, "cosine" along half a cosine; "constant" stays.
        warmup: the fraction of all steps, in [0, 1), over which the learning rate rises linearly from zero.
        label_smoothing: in [0, 1).
        augment: "none"; "crop": shifts by up to 4 pixels into a black border, of image files parts of 8 to 100 % of the image
            (:mod:`slimlib.imagefolder`); "crop_flip": and mirror images.
        precision: "float32"; "bfloat16": automatic mixed precision; "auto": the latter where the hardware computes
            with it natively. On GPUs torch lets convolutions of float32 round to TF32 unless told otherwise.
        compile: True, or a mode of torch.compile such as "reduce-overhead" (CUDA graphs) or "max-autotune". Same
            mathematics, other rounding.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True
    schedule: str = "onecycle"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    augment: str = "none"
    precision: str = "auto"
    compile: bool | str = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if not any(value is one or (isinstance(one, str) and value == one) for one in choices):  # 1 equals True
                raise SlimlibError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
        object.__setattr__(self, "nesterov", arguments.flag("nesterov", self.nesterov))
        for name in ("epochs", "batch_size"):
            object.__setattr__(self, name, arguments.count(name, getattr(self, name)))
        for name in ("lr", "weight_decay", "warmup", "label_smoothing", "momentum"):
            if not isinstance(value := getattr(self, name), Real) or isinstance(value, bool):
                raise SlimlibError(f"{name}={value!r} must be a number (YAML takes 1e-3 for text: write 1.0e-3 or 0.001)")
        for name in ("warmup", "label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise SlimlibError(f"{name}={getattr(self, name)} must be at least 0 and less than 1")
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise SlimlibError(f"lr={self.lr} must be positive, weight_decay={self.weight_decay} not negative, and both finite")
        if self.nesterov and not self.momentum:
            raise SlimlibError("nesterov=True needs a momentum above 0: give nesterov=False")

    def learning_rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, out of ``steps``."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        done = (step - rising) / (steps - rising)
        return self.lr * {"onecycle": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1}[self.schedule]
