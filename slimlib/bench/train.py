"""Training speed: `slimlib.fit` beside the limit of the hardware and beside the loop that tutorials write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import slimlib
from slimlib import models
from slimlib.batches import Batches
from slimlib.bench.measure import Comparison, Contestant, Race, finished
from slimlib.data import Data, Split
from slimlib.precision import autocast, resolve_precision

BATCH = 128
WORKERS = 2  # of the usual loop's DataLoader, as tutorials have it
# On a CPU: steps of one timed epoch. Some seconds each, as what a call sets up once counts for more than it should in fewer
NETWORKS = {"vgg_small": 48, "resnet20": 8, "vgg16": 3}
GPU_STEPS = 60  # on a GPU an epoch of all the embedded images takes little enough


def races() -> Iterator[Race]:
    for name, steps in NETWORKS.items():
        steps = GPU_STEPS if torch.cuda.is_available() else steps
        recipe = slimlib.Recipe(epochs=1, lr=0.01, batch_size=BATCH, augment="crop_flip")
        yield Race(
            f"train {name}", f"one epoch of {steps} steps of {BATCH} images of 3 x 32 x 32, crops and flips, {name}",
            {"slimlib.fit": _fit(name, steps, recipe), "bare step": _bare(name, steps, recipe),
             "usual loop": _usual(name, steps, recipe)},
            (Comparison("slimlib.fit", "bare step", "speed", 0.9 if torch.cuda.is_available() else 0.95),
             Comparison("slimlib.fit", "usual loop", "speed", 5.0 if torch.cuda.is_available() else 1.5)))


def colour_images(count: int) -> Data:
    """The embedded grey images in CIFAR's shape, so that the benchmark needs no download: padded, in three equal channels."""
    data = slimlib.load_data("fashionmnist-10k", val_fraction=0.0)
    images = F.pad(data.train.images[:count], (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    images = images.contiguous(memory_format=torch.channels_last)
    train = Split(images, data.train.labels[:count], data.mean * 3, data.std * 3)
    return Data("colour images", 10, train.mean, train.std, "", "embedded", train, train, train)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, num_classes=10, in_channels=3)


def _fit(name: str, steps: int, recipe: slimlib.Recipe) -> Contestant:
    def prepare():
        model, data = network(name), colour_images(steps * BATCH)
        return lambda: slimlib.fit(model, data, recipe, progress=False, validate="none")
    return prepare


def _bare(name: str, steps: int, recipe: slimlib.Recipe) -> Contestant:
    """Forward, backward and step on one batch that is ready on the device: what no loop can beat."""
    def prepare():
        data = colour_images(BATCH)
        device = data.device
        model = network(name).to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov,
                                    weight_decay=recipe.weight_decay, fused=True)
        _, images, labels = next(iter(Batches(data.train, BATCH, recipe.augment, seed=0)))
        precision = resolve_precision(recipe.precision, device)

        def epoch() -> None:
            for _ in range(steps):
                with autocast(device, precision):
                    logits = model(images)
                F.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            finished(device)
        return epoch
    return prepare


def _in_memory(datasets: Any, data: Data, transform: Any) -> Any:
    """torchvision's CIFAR10, given its images instead of a download; no class of ours, as worker processes may unpickle it."""
    images = datasets.CIFAR10.__new__(datasets.CIFAR10)
    datasets.VisionDataset.__init__(images, "", transform=transform)
    images.train, images.data = True, data.train.images.permute(0, 2, 3, 1).cpu().numpy()
    images.targets = data.train.labels.tolist()
    return images


def _usual(name: str, steps: int, recipe: slimlib.Recipe) -> Contestant:
    """torchvision's data set class, transforms on the CPU, a DataLoader with workers, float32, the default memory format.

    The workers stay alive between epochs, so that their start does not count: an epoch here is short.
    """
    def prepare():
        from PIL import Image  # noqa: F401 (imported before the workers are forked)

        from slimlib._torchvision import import_torchvision

        vision, data = import_torchvision(), colour_images(steps * BATCH)
        transforms = vision.transforms
        transform = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
                                        transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])
        loader = torch.utils.data.DataLoader(_in_memory(vision.datasets, data, transform), batch_size=BATCH, shuffle=True,
                                             num_workers=WORKERS, drop_last=True, persistent_workers=True)
        device = data.device
        model = network(name).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov,
                                    weight_decay=recipe.weight_decay)
        criterion = nn.CrossEntropyLoss()

        def epoch() -> float:
            running, start = 0.0, time.perf_counter()
            for images, labels in loader:
                images, labels = images.to(device), labels.to(device)
                optimizer.zero_grad()
                loss = criterion(model(images), labels)
                loss.backward()
                optimizer.step()
                running += loss.item()
            return time.perf_counter() - start
        return epoch
    return prepare
