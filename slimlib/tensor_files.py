"""Tensors in safetensors files, with texts beside them; and one error for files of tensors that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from slimlib.errors import SlimlibError, first_line


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> None:
    """Write the tensors by name, and the texts into the file's header. Raises OSError where the disk is full."""
    from safetensors.torch import save

    # Cloned, because safetensors refuses tensors that share memory; on the CPU, so that any machine can read them.
    bare = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    path.write_bytes(save(bare, metadata=dict(texts)))  # its own writer tells of a full disk by an error of another kind


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its texts; of a file that has none, an empty dict. Use :func:`refused_if_damaged`
    around it."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)


@contextmanager
def refused_if_damaged(what: str, remedy: str) -> Iterator[None]:
    """SlimlibError, naming ``what`` is read, for whatever a reader raises on a damaged file, or on one with code in it.

    Its bytes may be anything, and make the readers fail in any way: also by errors of looking up, of decoding, of assertions.
    """
    try:
        yield
    except Exception as error:
        raise SlimlibError(f"{what} cannot be read ({first_line(error)[:120]}): {remedy}") from error
