"""Files that appear under their name only when they are complete; what is wrong with a path is said by name."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from slimlib import arguments
from slimlib.errors import SlimlibError, first_line


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        with suppress(OSError):  # a file system without modes, as a Windows drive in WSL, may refuse
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private; records are for everyone, as the umask says
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _umask() -> int:
    """The process's umask, asked once: it can only be read by changing it for a moment, for all threads."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def saving(path: str | Path) -> Iterator[Path]:
    """:func:`replacing` for a file that a user has named: its folder must be there, and what forbids writing is refused."""
    path = arguments.path("path", path)
    folder_must_exist(path)
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise SlimlibError(f"path={str(path)!r} cannot be written ({first_line(error)}); give another file") from error


def folder_must_exist(path: str | Path, parameter: str = "path") -> None:
    """Refuse a name for a new file whose folder is not there: made unasked, a misspelt one would hide the file."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise SlimlibError(f"{parameter}={str(path)!r}: there is no folder {str(folder)!r}; make it first")


def cache_folder(variable: str, below: str = "") -> Path:
    """The folder that an environment variable names, else slimlib's own, or one below it, where the system keeps caches."""
    if os.environ.get(variable):
        return Path(os.environ[variable]).expanduser()
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        caches = "~/Library/Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "slimlib" / below


def data_folder() -> Path:
    """The folder of packed sets and downloaded weights: ``SLIMLIB_DATA``, else ``slimlib/data`` in the user's cache folder."""
    return cache_folder("SLIMLIB_DATA", "data")


def must_exist(path: str | Path, parameter: str = "path") -> None:
    """Refuse, by the name of its ``parameter``, a file to read that is not there."""
    if not arguments.path(parameter, path).is_file():
        raise SlimlibError(f"{parameter}={str(path)!r}: there is no such file; give the name of one")
