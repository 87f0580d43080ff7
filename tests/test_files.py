"""Files that are replaced whole: what other users may read, and file systems that know no modes."""

import os
import stat
import sys
from pathlib import Path

import pytest

from slimlib import files


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
