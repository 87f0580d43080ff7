"""Random numbers that follow from a seed and leave the caller's own stream alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context torch's global generators start from ``seed``: the CPU's, and those of all CUDA devices if CUDA is in
    use, or that of Apple's GPU. Afterwards they go on from where they were.

    ``torch.manual_seed`` alone would seed a CUDA that is not in use yet as well, when its first use comes, long after.
    """
    on_cuda = torch.cuda.is_initialized()
    on_mps = not on_cuda and torch.backends.mps.is_available()
    mps_state = torch.mps.get_rng_state() if on_mps else None
    with torch.random.fork_rng(range(torch.cuda.device_count()) if on_cuda else ()):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed_all(seed)
        elif on_mps:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if on_mps:
                torch.mps.set_rng_state(mps_state)
