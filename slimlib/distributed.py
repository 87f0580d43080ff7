"""Training that several processes share, one a GPU: what ``torchrun`` starts and torch's own DDP connects.

A batch is shared out evenly, and the gradient of its mean loss is the mean of the processes' gradients, so the loss
curve is that of one process up to rounding. Batch normalisation is the exception: its statistics are of a process's own
share, unless they are computed jointly, which torch offers for GPUs only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from slimlib.layout import BATCH_NORM

PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

LONGEST_WAIT = timedelta(days=7)
"""How long processes wait for one another. The first may wait for a lock while another machine is at the run; torch's default
of 10 to 30 minutes would end that. Longer than any run, and in milliseconds still 32 bits."""


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """As torch.distributed says; without it, one process."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def share(self, batch_size: int) -> slice:
        """The part of a batch that this process computes."""
        return slice(self.rank * batch_size // self.size, (self.rank + 1) * batch_size // self.size)

    def agreed(self, value: Any = None) -> Any:
        """The first process's value, in all of them: they must take the same turn, whatever each could see on disk.

        No process returns before the first one has come here, so the others also wait for what that one writes.
        """
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model itself, or torch's DistributedDataParallel around it."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def mean(self, value: Tensor) -> float:
        """The processes' mean of a number, in all of them."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value.item() / self.size

    def same_start(self, module: nn.Module) -> None:
        """The first process's weights, in all of them: processes draw from streams of their own."""
        if self.size > 1:
            for parameter in module.parameters():
                distributed.broadcast(parameter.data, src=0)

    def average_gradients(self, module: nn.Module) -> None:
        """For parameters that DDP does not look after: the hints' regressors."""
        if self.size > 1:
            for parameter in module.parameters():
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.size

    @contextmanager
    def shared_statistics(self, model: nn.Module, device: torch.device) -> Iterator[list[str]]:
        """Within the context, batch normalisation takes its statistics from all processes, where torch can do that.

        Subclasses, such as norms that hold an activation, stay as they are: torch's joint kind would compute something else.
        Yields the notes that a record of the run should carry.
        """
        norms = [(parent, key, child) for parent in model.modules() for key, child in parent.named_children()
                 if isinstance(child, BATCH_NORM)]
        if self.size == 1 or not norms:
            yield []
        elif device.type != "cuda":
            yield [f"batch normalisation used the statistics of each of {self.size} processes separately: torch computes them "
                   "jointly on GPUs only"]
        else:
            plain = [(parent, key, norm) for parent, key, norm in norms if type(norm) in PLAIN_NORMS]
            apart = sorted({type(norm).__name__ for *_, norm in norms if type(norm) not in (*PLAIN_NORMS, nn.SyncBatchNorm)})
            notes = [f"{', '.join(apart)} used the statistics of each of {self.size} processes separately: torch computes "
                     "jointly those of plain BatchNorm layers only"] if apart else []
            for parent, key, norm in plain:  # the twin shares the parameters and buffers of the original
                parent.add_module(key, nn.SyncBatchNorm.convert_sync_batchnorm(norm))
            try:
                yield notes
            finally:
                for parent, key, norm in plain:
                    parent.add_module(key, norm)


@contextmanager
def joined() -> Iterator[World]:
    """Within the context, the processes that ``torchrun`` started train together; a process of its own stays alone.

    Each takes the GPU of its number on its machine. They talk over NCCL on GPUs and Gloo on CPUs. After an error the process
    leaves without the others, which may be in the middle of a step: it is torchrun that ends them when it has ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "LOCAL_RANK" not in os.environ:
        yield World.current()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    yield World.current()
    distributed.destroy_process_group()
