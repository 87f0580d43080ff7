"""Training and evaluation on data that stay on the device.

Images are uint8 until the batch they are used in; cropping, flipping and normalising are done on the device, for the whole
batch at once, and nothing waits for the device inside an epoch.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimlib.data import Data, Split
from slimlib.distillation import Distill, Teaching
from slimlib.errors import SlimlibError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: stochastic gradient descent with momentum, one learning rate per step.

    ``schedule``: "onecycle" (linear rise over the ``warmup`` share of steps, then linear fall to 0), "cosine" (the same rise,
    then half a cosine) or "constant". ``augment``: "none", "crop" (4 pixels of zero padding, random crop) or "crop_flip" (and
    random mirror image). Weight decay acts on all parameters, BatchNorm's included, as in the papers compared with.
    ``precision``: "float32", "bfloat16" (autocast) or "auto": bfloat16 where the hardware computes in it.
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
    compile: bool = False

    def __post_init__(self):
        choices = {"schedule": ("onecycle", "cosine", "constant"), "augment": ("none", "crop", "crop_flip"),
                   "precision": ("auto", "float32", "bfloat16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SlimlibError(f"{name}={getattr(self, name)!r} is not known; use one of {', '.join(allowed)}")
        for name, low in (("epochs", 1), ("batch_size", 2)):
            if getattr(self, name) < low:
                raise SlimlibError(f"{name}={getattr(self, name)} must be at least {low}")
        if not self.lr > 0 or not 0 <= self.warmup < 1:
            raise SlimlibError(f"lr={self.lr} must be positive and warmup={self.warmup} in [0, 1)")

    def learning_rate(self, done: float) -> float:
        """The learning rate when the share ``done`` of all steps, in [0, 1], lies behind."""
        if self.schedule == "constant":
            return self.lr
        if done < self.warmup:
            return self.lr * done / self.warmup
        left = (1 - done) / (1 - self.warmup)
        return self.lr * (left if self.schedule == "onecycle" else 0.5 - 0.5 * math.cos(math.pi * left))


@dataclass
class History:
    """What a training run has to tell: mean loss of each epoch, validation accuracies, and how fast it was."""

    loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0
    images_per_second: float = 0.0
    precision: str = "float32"
    device: str = "cpu"


def fit(
    model: nn.Module, data: Data, recipe: Recipe, teacher: nn.Module | None = None, distill: Distill | None = None, *,
    seed: int = 0, progress: bool = True, validate: str = "last",
) -> History:
    """Train ``model`` in place on the training part of ``data``; test images are never looked at.

    With ``teacher``, the loss is the one ``distill`` describes (soft targets by default). ``seed`` decides order, crops and
    dropout: the same seed gives the same network on one device. ``validate``: accuracy on the held-out part after the "last"
    epoch, after every "epoch", or "none". The global random state is left as it was.

    Raises SlimlibError when the loss is no longer finite, or when ``distill`` comes without a teacher.
    """
    from tqdm import tqdm

    if distill is not None and teacher is None:
        raise SlimlibError("distill is given without teacher; a student needs the network it learns from")
    if validate not in ("last", "epoch", "none"):
        raise SlimlibError(f"validate={validate!r} is not known; use 'last', 'epoch' or 'none'")
    device = data.device
    precision = _precision(recipe.precision, device)
    model.to(device, memory_format=torch.channels_last).train()
    parameters = list(model.parameters())
    teaching = None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if teacher is not None:
            teacher.to(device, memory_format=torch.channels_last).eval()
            teaching = Teaching(model, teacher, distill or Distill(), data.example_input)
            parameters += list(teaching.parameters())
        optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
                                    nesterov=recipe.nesterov and recipe.momentum > 0, fused=True)
        batches = _Batches(data.train, recipe, seed)
        network = torch.compile(model) if recipe.compile else model
        history = History(precision=precision, device=str(device))
        bar = tqdm(total=recipe.epochs * len(batches), desc="training", disable=not progress, mininterval=1, leave=False)
        start = time.perf_counter()
        with bar, teaching.listening() if teaching else nullcontext():
            for epoch in range(recipe.epochs):
                history.loss.append(_epoch(network, teaching, optimizer, batches, recipe, precision, epoch, bar))
                if not math.isfinite(history.loss[-1]):
                    raise SlimlibError(f"lr={recipe.lr}: the loss is no longer finite in epoch {epoch + 1}; "
                                       "lower lr or lengthen warmup")
                if validate == "epoch" or (validate == "last" and epoch == recipe.epochs - 1):
                    if len(data.val):
                        history.val_accuracy.append(evaluate(model, data.val))
                    model.train()
        history.seconds = time.perf_counter() - start
    history.images_per_second = recipe.epochs * len(batches) * batches.size / history.seconds
    model.eval()
    return history


def _epoch(network, teaching, optimizer, batches, recipe, precision, epoch, bar) -> float:
    """One pass over the training images; the mean loss, read from the device once, at the end."""
    total = torch.zeros((), device=batches.device)
    cast = torch.autocast(batches.device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    steps = recipe.epochs * len(batches)
    for i, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate((epoch * len(batches) + i + 0.5) / steps)
        with cast:
            logits = network(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            if teaching is not None:
                loss = teaching(images, logits, loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        bar.update()
    return float(total) / len(batches)


class _Batches:
    """Shuffled, augmented, normalised batches; an epoch leaves out what does not fill the last one."""

    PADDING = 4

    def __init__(self, split: Split, recipe: Recipe, seed: int):
        self.split, self.recipe = split, recipe
        self.device = split.images.device
        self.size = min(recipe.batch_size, len(split))
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.pixels = split.images.permute(0, 2, 3, 1)  # (N, H, W, C), contiguous
        if recipe.augment != "none":
            pad = (0, 0, *[self.PADDING] * 4)
            self.pixels = F.pad(self.pixels, pad)

    def __len__(self) -> int:
        return len(self.split) // self.size

    def __iter__(self):
        order = torch.randperm(len(self.split), generator=self.generator, device=self.device)
        for i in range(len(self)):
            index = order[i * self.size : (i + 1) * self.size]
            yield self.split.normalise(self._pixels(index)), self.split.labels[index]

    def _pixels(self, index: Tensor) -> Tensor:
        if self.recipe.augment == "none":
            return self.pixels[index]
        height, width = self.split.images.shape[2:]
        draw = lambda high: torch.randint(high, (len(index), 1), generator=self.generator, device=self.device)  # noqa: E731
        rows = draw(2 * self.PADDING + 1) + torch.arange(height, device=self.device)
        columns = torch.arange(width, device=self.device).expand(len(index), width)
        if self.recipe.augment == "crop_flip":
            columns = torch.where(draw(2) == 1, columns.flip(1), columns)
        columns = draw(2 * self.PADDING + 1) + columns
        return self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]


@torch.no_grad()
def evaluate(model: nn.Module, data: Data | Split, batch_size: int = 500) -> float:
    """Top-1 accuracy in [0, 1]; a Data stands for its test part. The model's mode is left as it was."""
    split = data.test if isinstance(data, Data) else data
    if not len(split):
        raise SlimlibError("data: the split holds no images (val_fraction=0?), so there is no accuracy")
    training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=split.images.device)
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        right += (model(split.normalised(part)).argmax(1) == split.labels[part]).sum()
    model.train(training)
    return int(right) / len(split)


@torch.no_grad()
def calibrate_batchnorm(model: nn.Module, split: Split, images: int = 2000, batch_size: int = 250) -> None:
    """Recompute all BatchNorm statistics in place, as plain averages over training images, without changing a weight."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    training = model.training
    model.train()
    for start in range(0, min(images, len(split)), batch_size):
        model(split.normalised(slice(start, start + batch_size)))
    model.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _precision(wanted: str, device: torch.device) -> str:
    """"auto" is bfloat16 on hardware with matrix units for it; elsewhere it would be emulated, and slower than float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and hasattr(torch.cpu, "_is_amx_tile_supported") and torch.cpu._is_amx_tile_supported():
        return "bfloat16"
    return "float32"
