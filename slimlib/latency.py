"""How long networks take for a batch, on this machine: what a reader means by "faster", beside the count of multiply-adds.

A clock on a shared machine is noisy, and drifts. So the networks take turns: each round times every network once, in a new
order, and what is compared are the rounds. Something that slows the machine for a second slows all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from slimlib import arguments
from slimlib._checks import check_example
from slimlib.arguments import A_MODEL, kind
from slimlib.copying import copied
from slimlib.errors import SlimlibError
from slimlib.passing import passing

if TYPE_CHECKING:
    import pandas as pd

SPELL = 0.004
"""Seconds that one reading lasts at least: quick networks are called several times, so that the clock's grain is small."""


def devices() -> list[str]:
    """What can be measured here: "cpu", and "cuda" where there is a GPU."""
    return ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def measure(
    models: Mapping[str, nn.Module],
    example_input: torch.Tensor,
    batch_sizes: Iterable[int] = (1, 64),
    repeats: int = 15,
    on: str | Iterable[str] | None = None,
    seed: int = 0,
    limit_s: float = 30.0,
    threads: int | None = None,
) -> pd.DataFrame:
    """Milliseconds that each network needs for a batch, as a pandas DataFrame.

    One row a device, batch size and network: ``ms``, the median over rounds, with quartiles ``ms_low`` and ``ms_high``;
    ``relative``, the median over rounds of the time divided by the first network's in the same round, with quartiles
    ``relative_low`` and ``relative_high``; ``rounds``, how many were made.

    Args:
        models: {name: network}; the first is what the others are compared with. They are left as they are.
        example_input: one batch of any size; its first image is repeated. Time depends on shapes, not on values.
        batch_sizes: images a batch, each measured.
        repeats: rounds; in each, every network is timed once, in an order drawn under ``seed``.
        on: devices, of :func:`devices`, or one of them; None means all.
        seed: of the order of the networks in each round.
        limit_s: seconds for one device and batch size: no round is begun later, but for the first three.
        threads: of the CPU while measuring; one is steadiest on a shared machine. None means as many as torch has now.

    Raises:
        SlimlibError: an argument is out of range or of another kind, or a device is not here.
    """
    import pandas as pd

    kind("models", models, Mapping, "networks by name, such as {'dense': model, 'slim': slim}")
    for name, model in models.items():
        kind(f"models[{name!r}]", model, nn.Module, A_MODEL)
    check_example(example_input)
    kind("limit_s", limit_s, Real, "a number of seconds")
    repeats = arguments.count("repeats", repeats, "rounds")
    threads = torch.get_num_threads() if threads is None else arguments.count("threads", threads)
    kind("on", on, (str, Iterable, type(None)), "the name of a device, or a list of them")
    on = devices() if on is None else [on] if isinstance(on, str) else list(on)
    kind("batch_sizes", batch_sizes, Iterable, "a list of whole numbers, such as (1, 64)")
    batch_sizes = [arguments.count(f"batch_sizes[{at}]", size, "images") for at, size in enumerate(batch_sizes)]
    if not models or not on or not batch_sizes:
        raise SlimlibError(f"models={list(models)}, on={on}, batch_sizes={batch_sizes}: give at least one of each")
    if missing := [device for device in on if device not in devices()]:
        raise SlimlibError(f"on={missing[0]!r} cannot be measured here; there is {', '.join(devices())}")
    seed, rows, before = arguments.seed("seed", seed), [], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for device in on:
            placed = {name: copied(model).to(device).eval() for name, model in models.items()}
            for batch_size in batch_sizes:
                batch = example_input[:1].to(device).expand(batch_size, *example_input.shape[1:]).contiguous()
                taken = _rounds(placed, batch, repeats, seed, limit_s)
                rows += [{"device": device, "batch_size": batch_size, "model": name, **summary, "rounds": len(taken[name])}
                         for name, summary in _summaries(taken).items()]
    finally:
        torch.set_num_threads(before)
    return pd.DataFrame(rows)


def _rounds(
    models: Mapping[str, nn.Module], batch: torch.Tensor, repeats: int, seed: int, limit_s: float
) -> dict[str, np.ndarray]:
    """Milliseconds of each network in each round, shape (rounds,)."""
    draw, names = np.random.default_rng(seed), list(models)
    taken: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        calls = {}
        for name in names:
            with passing(batch, "the images of example_input", f"network {name!r}"):
                calls[name] = _calls(models[name], batch)
        start = time.monotonic()
        for made in range(repeats):
            if made >= 3 and time.monotonic() - start > limit_s:
                break
            for name in (names[at] for at in draw.permutation(len(names))):
                taken[name].append(1000 * _seconds(models[name], batch, calls[name]) / calls[name])
    return {name: np.array(ms) for name, ms in taken.items()}


def _calls(model: Callable, batch: torch.Tensor) -> int:
    """How many calls fill a spell. The first calls choose kernels and reserve memory, and count for nothing."""
    _seconds(model, batch, 2)
    return max(1, int(np.ceil(SPELL / max(_seconds(model, batch, 1), 1e-7))))


def _seconds(model: Callable, batch: torch.Tensor, calls: int) -> float:
    _wait(batch)
    start = time.perf_counter()
    for _ in range(calls):
        model(batch)
    _wait(batch)
    return time.perf_counter() - start


def _wait(batch: torch.Tensor) -> None:
    if batch.is_cuda:  # calls return before the GPU has done the work
        torch.cuda.synchronize(batch.device)


def _summaries(taken: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    first = next(iter(taken.values()))
    found = {}
    for name, ms in taken.items():
        found[name] = dict(zip(("ms_low", "ms", "ms_high"), np.quantile(ms, (0.25, 0.5, 0.75)).tolist(), strict=True))
        relative = np.quantile(ms / first, (0.25, 0.5, 0.75)).tolist()
        found[name] |= dict(zip(("relative_low", "relative", "relative_high"), relative, strict=True))
    return found
