"""What a network answers: its accuracy, and its batch statistics on images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from numbers import Integral

import torch
from torch import Tensor, nn

from slimlib.arguments import A_MODEL, count, kind
from slimlib.errors import Diverged, SlimlibError
from slimlib.layout import BATCH_NORM
from slimlib.modes import evaluation_mode
from slimlib.passing import passing
from slimlib.splits import Data, ImagePart, LabelledImages, some


def evaluate(model: nn.Module, data: Data | LabelledImages, batch_size: int = 1000) -> float:
    """Top-1 accuracy in [0, 1]; of ``data.test`` if a whole :class:`~slimlib.data.Data` is given.

    In float32, or in the type of the model's parameters (after ``model.half()``, say); torch lets convolutions on GPUs round
    float32 to TF32 unless told otherwise. The model is moved to the data's device. Its mode and its statistics stay as they are.
    ``batch_size``: images at a time, which memory must hold. Raises SlimlibError where it is not positive, where there are no
    images, and where they do not pass through the model or it returns no logits, or fewer than a whole Data has classes;
    its :class:`~slimlib.errors.Diverged` where it returns NaN.
    """
    batch_size = count("batch_size", batch_size, "images")
    split, classes = (data.test, data.num_classes) if isinstance(data, Data) else (data, 0)
    kind("model", model, nn.Module, A_MODEL)
    must_have_images(split)
    model.to(split.device)
    as_parameters = caster(model)
    right, undefined = torch.zeros(2, dtype=torch.int64, device=split.device)
    with torch.no_grad(), evaluation_mode(model):  # after inference_mode, what a model keeps could not be trained with
        for batch, (images, labels) in enumerate(split.in_order(batch_size)):
            with nullcontext() if batch else passing(images):
                output = model(as_parameters(images))
            logits = logits_of(output, classes)
            right += (logits.argmax(1) == labels).sum()
            undefined += logits.isnan().any(1).sum()
    if undefined:
        raise Diverged(f"model returns NaN for {int(undefined)} of {len(split)} images, which is no answer: its training has "
                       "diverged (look at the loss, and lower lr), or its numbers are too large for their type (float16 ends "
                       "at 65,504)")
    return right.item() / len(split)


def must_have_images(split: LabelledImages) -> None:
    """Refuse what a network cannot be evaluated on: another kind of thing, or a split without an image."""
    kind("data", split, LabelledImages, "what load_data or slimlib.data.from_arrays returns, or one of its splits")
    if not len(split):
        raise SlimlibError("data has no images to evaluate on: load it with val_fraction > 0")


def caster(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What gives images the one floating type that all parameters have; where they have several, the model sees to it."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return lambda images: images.to(*types) if len(types) == 1 and images.is_floating_point() else images


def logits_of(output: object, classes: int = 0, who: str = "model") -> Tensor:
    """What a classifier returned, if it is logits (N, at least ``classes``)."""
    if isinstance(output, Tensor) and output.dim() == 2:
        if output.shape[1] < classes:
            raise SlimlibError(f"{who} returns {output.shape[1]} logits, but the data have {classes} classes")
        return output
    told = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise SlimlibError(f"{who} returns {told}, where logits (N, classes) are needed: wrap it so that it returns them alone")


def calibrate_batchnorm(model: nn.Module, split: ImagePart, batch_size: int = 1000, images: int | None = None) -> nn.Module:
    """Recompute the running statistics of every batch normalisation from the images, in place, and return the model.

    Pruning changes what arrives at a layer, so the statistics stored by the dense network no longer describe it. They
    become the plain average over equal batches, of at least ``batch_size`` where there are as many images; no weight changes.
    ``images`` limits how many are used, default all: the first ones, or a sample where images are sorted by class, as a batch of
    one class has not the spread of all. Raises SlimlibError for fewer than 2 images, or 2 a batch: one alone has no spread.
    Whatever stops it, by an error or by hand, leaves the old statistics.
    """
    kind("model", model, nn.Module, A_MODEL)
    kind("images", images, (Integral, type(None)), "a whole number of them, or None for all")
    kind("split", split, ImagePart, "a split of the data, such as data.train, or what has its labels, first, sample and "
                                    "normalised")
    kind("batch_size", batch_size, Integral, "a whole number of images")
    if batch_size < 2:
        raise SlimlibError(f"batch_size={batch_size} must be at least 2: a single image has no spread")
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORM)]
    used = len(split) if images is None else min(images, len(split))
    batches = max(1, used // batch_size)  # equal batches, so that their average is that of the images
    if used < 2:
        raise SlimlibError(f"{used} images cannot give statistics: at least 2 are needed")
    split = some(split, used)
    model.to(split.device)
    momenta = [norm.momentum for norm in norms]
    old = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    as_parameters = caster(model)
    try:
        with torch.no_grad(), evaluation_mode(model):
            with passing(one := split.normalised(slice(0, 1))):
                model(as_parameters(one))  # while the old statistics are still there
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for part in range(batches):
                model(as_parameters(split.normalised(slice(part * used // batches, (part + 1) * used // batches))))
    except BaseException:
        for buffer, value in old:
            buffer.copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model
