"""Locks between processes that share a folder, so that they share the runs out.

``filelock.SoftFileLease`` does most of this, but takes a dead process's lock over by exchanging two names, which NFS refuses:
on the file systems that clusters share, the lock of a job that was killed would stay for ever.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from slimlib.errors import SlimlibError

STALE_AFTER = 3600.0
"""Seconds after which a lock of another machine is taken to be left over, if nobody has touched it: its process cannot be asked
from here."""

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that have no hard links."""


class RunBusy(Exception):
    """Another process is working on this run right now."""


@contextmanager
def locked(path: Path, label: str, wait: bool = True) -> Iterator[None]:
    """Hold a lock file; others wait, or get `RunBusy`, which names the `label`, when wait=False.

    The lock of a process that has died, as after kill -9, is taken over. Should two processes ever take over the
    same one in the same instant, the run is computed twice, and the record of the first stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = json.dumps(_owner())
    while not _create(path, mine):
        if drop_if_dead(path):
            continue
        if not wait:
            raise RunBusy(f"{label} is being run by another process ({_read(path)})")
        time.sleep(0.5)
    with _kept_fresh(path):
        try:
            yield
        finally:
            if _read(path) == mine:
                path.unlink(missing_ok=True)


@contextmanager
def _kept_fresh(path: Path) -> Iterator[None]:
    """Touch the lock now and then, so that machines which cannot ask its process see that it lives."""
    done = threading.Event()

    def touch() -> None:
        while not done.wait(STALE_AFTER / 24):
            with suppress(OSError):  # taken away, or the folder is not to be reached just now
                os.utime(path)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def drop_if_dead(path: Path) -> bool:
    """Remove the lock of a process that has died; whether there was one to remove."""
    holder = _read(path)
    if holder is None or not _stale(path, holder):
        return False
    _take_away(path, holder)
    return True


def _create(path: Path, text: str) -> bool:
    """Make the lock file, whole from the first instant on, unless it exists: a hard link is as exclusive as O_EXCL."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "w") as file:
            file.write(text)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise SlimlibError(f"{path.parent} is on a file system without hard links ({error.strerror}), which locks are made of; "
                           "set SLIMLIB_CACHE to a folder on another one") from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _take_away(path: Path, holder: str) -> None:
    """Remove a stale lock, and only that one: what another process has put in its place meanwhile is put back."""
    aside = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != holder:
        _create(path, _read(aside) or "")
    aside.unlink(missing_ok=True)


def _owner() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "pids": _pids(), "born": _born(os.getpid()),
            "token": uuid.uuid4().hex}  # fmt: skip


def _pids() -> str | None:
    """The name space of process numbers: containers of one host name have each their own. Only Linux has such."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a process started, in the system's own unit: tells a process from a later one that got the same number."""
    try:
        if sys.platform == "linux":  # exact; what psutil tells there depends on the clock
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return str(psutil.Process(pid).create_time())
    except (OSError, IndexError, psutil.Error):
        return None


def _now(folder: Path) -> float:
    """The time by the clock that dates the folder's files: on a shared one it may be far from this machine's."""
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _stale(path: Path, text: str) -> bool:
    try:
        holder = json.loads(text)
        pid, host, born = int(holder["pid"]), holder["host"], holder["born"]
    except (ValueError, KeyError, TypeError):
        return True  # not one of our locks, or torn by a full disk
    if host != socket.gethostname() or holder.get("pids") not in (None, _pids()):  # older locks do not name it
        try:
            return _now(path.parent) - path.stat().st_mtime > STALE_AFTER
        except FileNotFoundError:
            return False
    if not psutil.pid_exists(pid):
        return True
    return born is not None and _born(pid) != born
