"""What `make` sets up and with which Python, with stand-ins for the interpreters."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
INTERPRETER = """#!{python} -S
import os, shutil, sys
from pathlib import Path

version, here = {version}, Path(__file__)
if sys.argv[1] == "-c":
    sys.version_info = version
    sys.modules["pip"] = sys
    exec(sys.argv[2])
elif sys.argv[1:3] == ["-m", "venv"]:
    shutil.rmtree(sys.argv[-1], ignore_errors=True)
    (Path(sys.argv[-1]) / "bin").mkdir(parents=True)
    shutil.copy(here, Path(sys.argv[-1]) / "bin" / "python")
else:
    with open("log", "a") as log:
        print(".".join(map(str, version)), *sys.argv[1:], file=log)
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def project(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "bin").mkdir()
    return tmp_path


def interpreter(project: Path, name: str, *version: int) -> None:
    path = project / "bin" / name
    path.write_text(INTERPRETER.format(python=sys.executable, version=version))
    path.chmod(0o755)


def make(project: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """What make said, and what each interpreter in .venv was asked to do meanwhile: its version first."""
    (project / "log").write_text("")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    environment["PATH"] = os.pathsep.join([str(project / "bin"), "/usr/bin", "/bin"])
    done = subprocess.run(["make", *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False)
    return done, (project / "log").read_text().splitlines()


def test_a_python_that_is_named_takes_the_place_of_another_one(project):
    interpreter(project, "python3", 3, 13, 2)
    interpreter(project, "python3.12", 3, 12, 4)
    done, log = make(project, "book")
    assert done.returncode == 0 and log[-1] == "3.13.2 -m slimlib book" and len(log) == 3, done.stderr
    assert make(project, "book")[1] == log[-1:], "set up once"
    done, log = make(project, "book", "PYTHON=python3.12")
    assert done.returncode == 0 and log[-1] == "3.12.4 -m slimlib book" and len(log) == 3, done.stderr
    for again in (("book", "PYTHON=python3.12"), ("book",)):
        assert make(project, *again)[1] == log[-1:], "what is there is that Python, or none is asked for"


def test_a_python_that_is_named_and_not_there_is_an_error_and_leaves_what_is(project):
    interpreter(project, "python3", 3, 13, 2)
    interpreter(project, "python3.9", 3, 9, 1)
    make(project, "book")
    for name, found in (("python3.12", "none"), ("python3.9", "python3.9 (3.9.1)")):
        done, log = make(project, "book", f"PYTHON={name}")
        assert done.returncode and "needs Python 3.11 or newer" in done.stderr and f"found: {found}" in done.stderr and not log
    assert make(project, "book")[1] == ["3.13.2 -m slimlib book"]


def test_a_python_that_the_lock_refuses_is_passed_over(project):
    """Python 3.14.1 alone is one: a package of the lock excludes it."""
    interpreter(project, "python3", 3, 14, 1)
    interpreter(project, "python3.13", 3, 13, 2)
    done, log = make(project, "book")
    assert done.returncode == 0 and log[-1] == "3.13.2 -m slimlib book", done.stderr
    interpreter(project, "python3", 3, 14, 2)
    make(project, "clean-all")
    assert make(project, "book")[1][-1] == "3.14.2 -m slimlib book"
    interpreter(project, "python3", 3, 14, 1)
    done, _ = make(project, "book", "PYTHON=python3", "VENV=.other")
    assert done.returncode and "3.14.1" in done.stderr and not (project / ".other").exists()


@pytest.mark.parametrize("version", ["3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0", "3.14.2"])  # 3.11.2 is Debian 12's
def test_every_package_of_the_lock_takes_the_pythons_that_are_promised(version):
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [line.partition("==")[0] for line in lock if "==" in line and not line.startswith("#")]
    wanted = {name: distribution(name).metadata.get("Requires-Python") or "" for name in pinned}
    assert len(wanted) > 100 and not {name: why for name, why in wanted.items() if version not in SpecifierSet(why)}
