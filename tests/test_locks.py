"""Locks of processes that cannot be asked: on another machine, or in another container of the same name."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slimlib.study import locks
from slimlib.study.locks import RunBusy, locked

LONG_AGO = 2 * 24 * 3600


def left_behind(folder: Path, **told) -> Path:
    path = folder / "run.lock"
    path.write_text(json.dumps({"pid": 1, "host": "another-machine", "born": "0", "token": "x", **told}))
    return path


def busy(path: Path) -> bool:
    try:
        with locked(path, "a run", wait=False):
            return False
    except RunBusy:
        return True


@pytest.mark.parametrize("days", [-2, 2])
def test_the_age_of_another_machines_lock_is_told_by_the_file_systems_clock(tmp_path, monkeypatch, days):
    """The lock's own time is the file server's, and this machine's clock may be far from it."""
    path, clock = left_behind(tmp_path), time.time
    monkeypatch.setattr("time.time", lambda: clock() + days * 24 * 3600)
    assert busy(path)
    os.utime(path, (clock() - LONG_AGO,) * 2)
    assert not busy(path)
    assert not list(tmp_path.iterdir()), "nothing is left of looking at the clock"


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="only Linux numbers processes by name space")
def test_a_process_of_another_container_is_not_looked_for_among_ones_own(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    here = {"pid": int(gone.stdout), "host": socket.gethostname()}
    path = left_behind(tmp_path, **here, pids="pid:[1]")
    assert busy(path)
    os.utime(path, (time.time() - LONG_AGO,) * 2)
    assert not busy(path)
    assert not busy(left_behind(tmp_path, **here, pids=os.readlink("/proc/self/ns/pid")))
    assert not busy(left_behind(tmp_path, **here)), "as locks told that did not name it"


def test_a_lock_tells_where_its_process_has_its_number(tmp_path):
    with locked(tmp_path / "run.lock", "a run"):
        told = json.loads((tmp_path / "run.lock").read_text())
        assert told["pid"] == os.getpid() and told["pids"] == locks._pids()
        assert busy(tmp_path / "run.lock")
