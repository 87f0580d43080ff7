"""Weights that others have published: fetched once, and checked each time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch.hub import download_url_to_file

from slimlib.errors import SlimlibError
from slimlib.files import data_folder


def downloaded(url: str, sha256: str) -> Path:
    """The file of that URL in ``weights`` of :func:`slimlib.files.data_folder`, downloaded if it is missing.

    Raises SlimlibError where it cannot be fetched, and where its SHA-256 is another.
    """
    file = data_folder() / "weights" / url.rpartition("/")[2]
    if not file.exists():
        try:  # it appears under its name when it is complete and the hash is right
            file.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(url, str(file), sha256, progress=False)
        except (OSError, RuntimeError) as error:
            raise SlimlibError(f"{file} is missing, and {url} cannot be fetched ({error}). Put the file there, or set "
                               "SLIMLIB_DATA to the folder that holds weights/" + file.name) from error
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise SlimlibError(f"{file} is damaged: its SHA-256 begins with {found[:8]}, not {sha256[:8]}; remove it")
    return file
