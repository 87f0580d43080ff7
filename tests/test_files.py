"""Files that are replaced whole: what other users may read, file systems that know no modes, and disks that are full."""

import os
import stat
import sys
from pathlib import Path

import pytest
import torch

import slimlib
from slimlib import files
from slimlib.__main__ import UNWRITABLE
from slimlib.study.runs import Run
from slimlib.study.store import Store


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_a_saved_file_is_for_everyone_whom_the_umask_lets_read(tmp_path):
    before = os.umask(0o022)
    files._umask.cache_clear()
    try:
        with files.saving(tmp_path / "plan.json") as temporary:
            temporary.write_text("{}")
    finally:
        os.umask(before)
        files._umask.cache_clear()
    assert stat.S_IMODE((tmp_path / "plan.json").stat().st_mode) == 0o644


def test_a_file_system_that_refuses_modes_is_written_to(tmp_path, monkeypatch):
    """A Windows drive within WSL does, for one."""
    def refuse(path, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with files.replacing(tmp_path / "record.json") as temporary:
        temporary.write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.fixture
def small_files():
    """No file may grow beyond 4 KiB: the nearest that a test comes to a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_as_one_and_leaves_nothing_behind(tmp_path, small_files):
    """safetensors' own writer raises no OSError, by which the command line knows what to say."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 3))
    plan = slimlib.plan_widths(model, torch.zeros(2, 64), keep_macs=0.9)
    with pytest.raises(slimlib.SlimlibError, match=r"^path='.*slim\.safetensors' cannot be written \(.*File too large"):
        slimlib.save(slimlib.prune(model, plan), plan, tmp_path / "slim.safetensors")
    run = Run("fashionmnist-10k", "lenet5", "dense", recipe=slimlib.Recipe(epochs=1, lr=0.05))
    with pytest.raises(OSError) as caught:
        Store(tmp_path, tmp_path).save_checkpoint(run, model)
    assert caught.value.errno in UNWRITABLE
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
