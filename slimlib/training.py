"""Training on images that live on the device.

One loop serves every arm of every experiment, so that arms differ in what is trained and in nothing else. Within an
epoch the host never waits for the device: batches are made where the images are (:mod:`slimlib.batches`), the loss is
summed there, and read once at the end.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from slimlib import arguments
from slimlib.arguments import A_MODEL, kind
from slimlib.batches import Batches
from slimlib.distillation import Distill
from slimlib.distributed import World
from slimlib.errors import Diverged, SlimlibError
from slimlib.evaluation import evaluate, logits_of
from slimlib.lesson import Lesson
from slimlib.modes import in_channels_last
from slimlib.passing import passing
from slimlib.precision import autocast, resolve_precision
from slimlib.randomness import seeded
from slimlib.recipe import Recipe
from slimlib.splits import Data, Split


@dataclass(frozen=True)
class History:
    """What a training run looked like.

    ``seconds`` and ``images_per_second`` are of the training itself, validation and preparation not counted.
    """

    loss: list[float]  # mean training loss of each epoch
    val_accuracy: list[float]  # in [0, 1]: one an epoch, only the last, or none, as ``validate`` asked
    seconds: float
    images_per_second: float
    steps: int
    precision: str
    device: str
    processes: int = 1
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        return asdict(self)


def fit(model: nn.Module, data: Data, recipe: Recipe, teacher: nn.Module | None = None, distill: Distill | None = None,
        seed: int = 0, progress: bool = True, validate: str = "last", eval_batch_size: int = 1000) -> History:
    """Train a model in place, and leave it on the data's device in evaluation mode, also where training ends by an error.

    The same seed gives the same result on the same device and library versions. The caller's random state is neither
    used nor changed. Under torch.distributed (started by ``torchrun``) every process calls this with the same arguments;
    each step's batch is shared out among them.

    Args:
        model: any classifier of (N, C, H, W) float images that returns logits (N, classes).
        data: see :func:`slimlib.data.load_data`. Only ``data.train`` is learnt from, only ``data.val`` validated on.
        recipe: see :class:`slimlib.Recipe`.
        teacher: a trained model to distil from; it is moved to the data's device and only evaluated.
        distill: what to take from the teacher; default ``Distill()``.
        seed: of the order of the images, their augmentation and what a model draws itself (dropout).
        progress: show a bar, a step at a time.
        validate: "last", "epoch" (after each epoch) or "none".
        eval_batch_size: images at a time in validation, which memory must hold.

    Raises:
        SlimlibError: an argument is out of range or of another kind, the model cannot be trained (no parameter that learns,
            another type than float32, images that do not pass through it, fewer logits than classes).
        slimlib.errors.Diverged: the loss is no longer finite at the end of an epoch, or an answer in validation is NaN.
    """
    _refuse(model, data, recipe, teacher, distill, validate)
    seed, eval_batch_size = arguments.seed("seed", seed, bits=63), arguments.count("eval_batch_size", eval_batch_size, "images")
    world, device = World.current(), data.device
    batch_size, steps = recipe.batch_size, len(data.train) // recipe.batch_size
    if not steps or batch_size % world.size:
        raise SlimlibError(f"batch_size={batch_size} must be at most the {len(data.train)} training images and a multiple "
                           f"of the {world.size} processes")
    precision = resolve_precision(recipe.precision, device)
    loss_sum = torch.zeros((), device=device)
    losses, accuracies, seconds = [], [], 0.0

    with ExitStack() as stack:
        stack.callback(model.eval)  # last of all, when its own normalisation layers are back
        # what a model draws itself (dropout); each process drops other units
        stack.enter_context(seeded(seed + 1_000_003 * world.rank))
        stack.enter_context(_reproducible_kernels())
        model.to(device).train()
        stack.enter_context(in_channels_last(model))
        notes = stack.enter_context(world.shared_statistics(model, device))
        for note in notes:
            warnings.warn(note, stacklevel=2)
        lesson = Lesson(model, teacher, distill or Distill(), data, precision, recipe, stack) if teacher is not None else None
        if lesson:
            world.same_start(lesson.distiller)
        parameters = list(model.parameters()) + (list(lesson.distiller.parameters()) if lesson else [])
        optimizer = _optimizer(parameters, recipe, device)
        network = world.wrap(model, device)
        if recipe.compile:
            network = torch.compile(network, mode=None if recipe.compile is True else recipe.compile)
        how = (batch_size, recipe.augment, seed, world)
        # images on the device, or files (slimlib.imagenet)
        batches = Batches(data.train, *how) if isinstance(data.train, Split) else data.train.batches(*how)
        bar = stack.enter_context(_bar(progress and world.rank == 0, recipe.epochs * steps))
        for epoch in range(recipe.epochs):
            model.train()
            loss_sum.zero_()
            start = time.perf_counter()
            for step, (index, images, labels) in enumerate(batches, start=epoch * steps):
                optimizer.param_groups[0]["lr"] = recipe.learning_rate(step, recipe.epochs * steps)
                with autocast(device, precision), nullcontext() if step else passing(images):
                    output = network(images)
                logits = logits_of(output, data.num_classes)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
                if lesson:
                    loss = lesson(index, images, logits.float(), loss)
                loss.backward()
                if lesson:
                    world.average_gradients(lesson.distiller)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                loss_sum += loss.detach()
                bar.update()
            losses.append(world.mean(loss_sum) / steps)  # the host waits for the device here
            seconds += time.perf_counter() - start
            if not math.isfinite(losses[-1]):
                raise Diverged(f"the loss became {losses[-1]} in epoch {epoch + 1} of {recipe.epochs}: lower "
                               f"lr={recipe.lr}, or lengthen warmup={recipe.warmup}")
            if validate == "epoch" or (validate == "last" and epoch + 1 == recipe.epochs):
                accuracies.append(evaluate(model, data.val, eval_batch_size))
            bar.set_postfix(loss=f"{losses[-1]:.3f}", **({"val": f"{accuracies[-1]:.3f}"} if accuracies else {}))
    images = recipe.epochs * steps * batch_size
    return History(losses, accuracies, seconds, images / seconds, recipe.epochs * steps, precision, str(device),
                   world.size, notes)


def _refuse(model: nn.Module, data: Data, recipe: Recipe, teacher: nn.Module | None, distill: Distill | None,
            validate: str) -> None:
    """What could not be trained, or would fail only after an epoch."""
    kind("model", model, nn.Module, A_MODEL)
    if teacher is not None:
        kind("teacher", teacher, nn.Module, "a trained torch.nn.Module")
    kind("data", data, Data, "what load_data or slimlib.data.from_arrays returns")
    kind("recipe", recipe, Recipe, "a slimlib.Recipe, such as Recipe(epochs=1, lr=0.02)")
    if validate not in ("last", "epoch", "none"):
        raise SlimlibError(f'validate={validate!r} must be "last", "epoch" or "none"')
    if validate != "none" and not len(data.val):
        raise SlimlibError(f'validate={validate!r} needs held-out images: load the data with val_fraction > 0, or give "none"')
    if distill is not None:
        kind("distill", distill, Distill, "a slimlib.Distill, such as Distill(kd_weight=0.9)")
    if distill is not None and teacher is None:
        raise SlimlibError("distill is given without a teacher: give teacher=, a trained model")
    if teacher is model:
        raise SlimlibError("teacher is the model itself, whose answers would change as it learns: give a trained network "
                           "beside it")
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise SlimlibError("model: gradients are off here (torch.no_grad, torch.inference_mode), so nothing can be trained; call "
                           "fit outside")
    if not any(p.requires_grad for p in model.parameters()):
        raise SlimlibError("model: no parameter requires a gradient, so nothing can be trained; see requires_grad_")
    if other := [name for name, p in model.named_parameters() if p.is_floating_point() and p.dtype != torch.float32]:
        raise SlimlibError(f"model: {other[0]} is of {model.get_parameter(other[0]).dtype}; train it as model.float(), and "
                           "choose with the recipe's precision what it computes in")


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """SGD by the recipe, without gradients yet: what the caller's own loop has left would count, also for frozen parameters."""
    optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov,
                                weight_decay=recipe.weight_decay, fused=device.type in ("cpu", "cuda"))
    optimizer.zero_grad(set_to_none=True)
    return optimizer


@contextmanager
def _reproducible_kernels() -> Iterator[None]:
    """Let cuDNN choose only among algorithms that give the same sums each time, and not by timing them. Whether it may round
    to TF32 stays as the caller has it."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=None, fp32_precision=None):
        yield


def _bar(shown: bool, total: int):
    """A progress bar in plain text on stderr."""
    from tqdm import tqdm

    return tqdm(total=total, unit="step", disable=not shown, mininterval=0.5, ascii=" =", leave=False)
