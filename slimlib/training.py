"""Training and evaluation on images that live on the device.

One loop serves every arm of every experiment, so that arms differ in what is trained and in nothing else. Within an
epoch the host never waits for the device: batches are cut, flipped and normalised where the images are, the loss is
summed there, and read once at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimlib.data import Data, Split
from slimlib.distillation import Distill, Distiller, recorded
from slimlib.distributed import World
from slimlib.errors import SlimlibError

PADDING = 4  # pixels of black border that a random crop may reach into, as He et al. (2016, section 4.2)
_CHOICES = {"schedule": ("onecycle", "cosine", "constant"), "augment": ("none", "crop", "crop_flip"),
            "precision": ("auto", "float32", "bfloat16")}


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
        schedule: after the warm-up, "onecycle" falls linearly to zero, "cosine" along half a cosine; "constant" stays.
        warmup: the fraction of all steps, in [0, 1), over which the learning rate rises linearly from zero.
        label_smoothing: in [0, 1).
        augment: "none"; "crop": shifts by up to 4 pixels into a black border; "crop_flip": and mirror images.
        precision: "float32"; "bfloat16": automatic mixed precision; "auto": the latter where the hardware computes
            with it natively.
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
            if getattr(self, name) not in choices:
                raise SlimlibError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(repr, choices))}")
        for name in ("epochs", "batch_size"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise SlimlibError(f"{name}={getattr(self, name)!r} must be a whole number, at least 1")
        for name in ("warmup", "label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise SlimlibError(f"{name}={getattr(self, name)} must be at least 0 and less than 1")
        if not self.lr > 0 or self.weight_decay < 0:
            raise SlimlibError(f"lr={self.lr} must be positive and weight_decay={self.weight_decay} not negative")
        if self.nesterov and not self.momentum:
            raise SlimlibError("nesterov=True needs a momentum above 0: give nesterov=False")

    def learning_rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, out of ``steps``."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        done = (step - rising) / (steps - rising)
        return self.lr * {"onecycle": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1}[self.schedule]


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
        seed: int = 0, progress: bool = True, validate: str = "last") -> History:
    """Train a model in place, and leave it on the data's device in evaluation mode.

    The same seed gives the same result on the same device and library versions. The caller's random state is neither
    used nor changed. Under torch.distributed (started by ``torchrun``) every process calls this with the same arguments;
    each step's batch is shared out among them.

    Args:
        model: any classifier of (N, C, H, W) float images that returns logits (N, classes).
        data: see :func:`slimlib.data.load_data`. Only ``data.train`` is learnt from, only ``data.val`` validated on.
        teacher: a trained model to distil from; it is only evaluated, and left as it was.
        distill: what to take from the teacher; default ``Distill()``.
        validate: "last", "epoch" (after each epoch) or "none".

    Raises:
        SlimlibError: an argument is out of range, or the loss is no longer finite at the end of an epoch.
    """
    if validate not in ("last", "epoch", "none"):
        raise SlimlibError(f'validate={validate!r} must be "last", "epoch" or "none"')
    if validate != "none" and not len(data.val):
        raise SlimlibError(f'validate={validate!r} needs held-out images: load the data with val_fraction > 0, or give "none"')
    if distill is not None and teacher is None:
        raise SlimlibError("distill is given without a teacher: give teacher=, a trained model")
    world, device = World.current(), data.device
    batch_size, steps = recipe.batch_size, len(data.train) // recipe.batch_size
    if not steps or batch_size % world.size:
        raise SlimlibError(f"batch_size={batch_size} must be at most the {len(data.train)} training images and a multiple "
                           f"of the {world.size} processes")
    precision = resolve_precision(recipe.precision, device)
    loss_sum = torch.zeros((), device=device)
    losses, accuracies, seconds = [], [], 0.0

    with ExitStack() as stack:
        stack.enter_context(_private_randomness(seed, world.rank, device))
        stack.enter_context(_reproducible_kernels())
        model.to(device).train()
        stack.enter_context(_channels_last(model))
        notes = stack.enter_context(world.shared_statistics(model, device))
        lesson = _Lesson(model, teacher, distill or Distill(), data, precision, recipe, stack) if teacher else None
        parameters = list(model.parameters()) + (list(lesson.distiller.parameters()) if lesson else [])
        optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov,
                                    weight_decay=recipe.weight_decay, fused=device.type in ("cpu", "cuda"))
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
                with autocast(device, precision):
                    logits = network(images)
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
                raise SlimlibError(f"the loss became {losses[-1]} in epoch {epoch + 1} of {recipe.epochs}: lower "
                                   f"lr={recipe.lr}, or lengthen warmup={recipe.warmup}")
            if validate == "epoch" or (validate == "last" and epoch + 1 == recipe.epochs):
                accuracies.append(evaluate(model, data.val))
            bar.set_postfix(loss=f"{losses[-1]:.3f}", **({"val": f"{accuracies[-1]:.3f}"} if accuracies else {}))
        model.eval()
    images = recipe.epochs * steps * batch_size
    return History(losses, accuracies, seconds, images / seconds, recipe.epochs * steps, precision, str(device),
                   world.size, notes)


class Batches:
    """The training images in a new random order each time it is iterated: (index, float images, labels).

    Every process draws the order and the augmentation of the whole batch and keeps its own share, so what is computed
    does not depend on how many share it.
    """

    def __init__(self, split: Split, batch_size: int, augment: str, seed: int, world: World | None = None):
        self.split, self.batch_size, self.flip = split, batch_size, augment == "crop_flip"
        world = world or World()
        self.share = slice(world.rank * batch_size // world.size, (world.rank + 1) * batch_size // world.size)
        self.generator = torch.Generator(split.images.device).manual_seed(seed)
        self.pixels = split.images.permute(0, 2, 3, 1)
        if augment != "none":
            height, width = self.pixels.shape[1:3]
            padded = F.pad(self.pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
            # A view (N, 9, 9, H, W, C) of all 81 positions of the crop: it takes no memory, and one gather cuts a batch.
            windows = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
            self.pixels = windows

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        size, device, draw = self.batch_size, self.split.images.device, self.generator
        order = torch.randperm(len(self.split), generator=draw, device=device)
        for index in order.split(size)[:len(order) // size]:
            if self.pixels.ndim == 4:
                index = index[self.share]
                pixels = self.pixels[index]
            else:
                shift = torch.randint(2 * PADDING + 1, (2, size), generator=draw, device=device)[:, self.share]
                index = index[self.share]
                pixels = self.pixels[index, shift[0], shift[1]]
            if self.flip:
                mirrored = torch.rand(size, generator=draw, device=device)[self.share] < 0.5
                pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(2), pixels)
            yield index, self.split.normalise(pixels), self.split.labels[index]


class _Lesson:
    """The teacher's part in a step: its logits and features of the batch, and the loss made of both networks'."""

    def __init__(self, student: nn.Module, teacher: nn.Module, distill: Distill, data: Data, precision: str,
                 recipe: Recipe, stack: ExitStack):
        self.teacher = teacher.to(data.device)
        stack.enter_context(_evaluation_mode(teacher))
        stack.enter_context(_channels_last(teacher))
        self.distiller = Distiller(student, teacher, distill, data.example_input)
        if self.distiller.layers and recipe.compile:
            raise SlimlibError(f"compile={recipe.compile!r} cannot be combined with hints or attention transfer, which "
                               "look inside the network: give compile=False")
        self.features = [stack.enter_context(recorded(model, self.distiller.layers)) for model in (student, teacher)]
        self.autocast = lambda: autocast(data.device, precision)
        self.known = None
        if recipe.augment == "none" and recipe.epochs > 1 and not self.distiller.layers:
            # Without augmentation an image looks the same in every epoch, and the teacher need see it only once.
            self.known = torch.cat([self._ask(data.train.normalised(slice(i, i + recipe.batch_size)))
                                    for i in range(0, len(data.train), recipe.batch_size)])

    def _ask(self, images: Tensor) -> Tensor:
        with torch.no_grad(), self.autocast():  # not inference_mode: its tensors may not enter a student's graph
            return self.teacher(images).float()

    def __call__(self, index: Tensor, images: Tensor, logits: Tensor, label_loss: Tensor) -> Tensor:
        answer = self._ask(images) if self.known is None else self.known[index]
        return self.distiller(logits, label_loss, answer, *self.features)


def evaluate(model: nn.Module, data: Data | Split, batch_size: int = 1000) -> float:
    """Top-1 accuracy in [0, 1], in float32; of ``data.test`` if a whole :class:`~slimlib.data.Data` is given.

    The model is moved to the data's device. Its mode and its statistics stay as they are.
    """
    split = data.test if isinstance(data, Data) else data
    if not len(split):
        raise SlimlibError("data has no images to evaluate on: load it with val_fraction > 0")
    model.to(split.device)
    right = torch.zeros((), dtype=torch.int64, device=split.device)
    with torch.inference_mode(), _evaluation_mode(model):
        for images, labels in split.in_order(batch_size):
            right += (model(images).argmax(1) == labels).sum()
    return right.item() / len(split)


def calibrate_batchnorm(model: nn.Module, split: Split, batch_size: int = 1000, images: int | None = None) -> nn.Module:
    """Recompute the running statistics of every batch normalisation from the images, in place, and return the model.

    Pruning changes what arrives at a layer, so the statistics stored by the dense network no longer describe it. They
    become the plain average over the batches; no weight changes. ``images`` limits how many are used, default all.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    count = len(split) if images is None else min(images, len(split))
    batches = max(1, count // batch_size)  # equal batches, so that their average is that of the images
    if count < 2:
        raise SlimlibError(f"{count} images cannot give statistics: at least 2 are needed")
    momenta = [norm.momentum for norm in norms]
    model.to(split.device)
    with torch.no_grad(), _evaluation_mode(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        for part in range(batches):
            model(split.normalised(slice(part * count // batches, (part + 1) * count // batches)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def resolve_precision(precision: str, device: torch.device) -> str:
    """"float32" or "bfloat16": what ``precision`` means on a device. On a CPU without bfloat16 units it would be slower."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return "bfloat16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "float32"
    return "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Automatic mixed precision in bfloat16, or nothing. It needs no loss scaling: its range is that of float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def _private_randomness(seed: int, rank: int, device: torch.device) -> Iterator[None]:
    """What a model draws itself (dropout) comes from the seed, and the caller's random state is put back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed + 1_000_003 * rank)  # each process drops other units
        yield


@contextmanager
def _reproducible_kernels() -> Iterator[None]:
    """Let cuDNN choose only among algorithms that give the same sums each time, and not by timing them."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield


@contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """Store the weights channels-last meanwhile: the same numbers in the order that convolutions are fastest in."""
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _bar(shown: bool, total: int):
    """A progress bar in plain text on stderr."""
    from tqdm import tqdm

    return tqdm(total=total, unit="step", disable=not shown, mininterval=0.5, ascii=" =", leave=False)
