"""Where a record says its code, arithmetic and images come from."""

import subprocess

import pytest
import torch

from slimlib import Recipe, SlimlibError
from slimlib.__main__ import main
from slimlib.study import execution, networks, profiles, provenance, stages
from slimlib.study.runs import Run
from slimlib.study.store import Store
from tests.conftest import project_with_profile

RECIPE = Recipe(epochs=1, lr=0.05)
RUN = Run("fashionmnist-10k", "lenet5", "dense", recipe=RECIPE)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout in which the library seems to lie, and what commits to it."""
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "slimlib" / "study" / "provenance.py"))
    provenance.code_version.cache_clear()
    yield git
    provenance.code_version.cache_clear()


@pytest.mark.parametrize("start", ["ensure", "execute"])
def test_the_code_of_a_record_is_that_which_lay_there_when_the_study_began(tmp_path, monkeypatch, checkout, start):
    """Before the first run a process may wait for hours, and something is committed meanwhile."""
    store, first = Store(tmp_path / "records", tmp_path / "cache"), checkout("rev-parse", "HEAD")

    def dense(run, store, progress):
        checkout("commit", "-q", "--allow-empty", "-m", "second")
        with provenance.recorded() as told:
            store.save_checkpoint(run, torch.nn.Linear(1, 1))
        return {"metrics": {}, "provenance": told}

    monkeypatch.setitem(stages.MAKERS, "dense", dense)
    if start == "ensure":
        (record,) = execution.ensure([RUN], store, progress=False)
    else:
        record = execution.execute(RUN, store, progress=False)
    assert record["provenance"]["code"]["commit"] == first != checkout("rev-parse", "HEAD")


@pytest.mark.parametrize(("code", "told"), [
    ({"commit": "a" * 40, "dirty": False}, None),
    ({"commit": "a" * 40, "dirty": True}, "uncommitted changes"),
    ({"commit": None, "dirty": None}, "not in a git checkout"),
])  # fmt: skip
def test_evidence_of_code_that_nobody_could_find_again_is_warned_of(tmp_path, monkeypatch, capsys, code, told):
    project_with_profile(tmp_path, "s: [{dataset: fashionmnist-10k, model: lenet5, stage: dense, recipe: r, seconds: 1}]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIMLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(provenance, "code_version", lambda: code)
    (run,) = profiles.load_profile("small", tmp_path).runs()
    Store(tmp_path / "records").put(run, {"provenance": {"seconds": 1.0}})
    assert main(["train", "small"]) == 0
    warned = capsys.readouterr().err.strip()
    assert told in warned and len(warned.splitlines()) == 1 if told else warned == ""


def test_the_record_of_a_gpu_tells_whether_float32_was_rounded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(provenance, "_driver", lambda: "1")
    assert "float32_convolutions" not in provenance.machine("cpu")  # which does not round
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        for precision in ("ieee", "tf32"):
            torch.backends.cudnn.conv.fp32_precision = precision
            assert provenance.machine("cuda")["float32_convolutions"] == precision
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    torch.set_float32_matmul_precision("high")
    try:
        assert provenance.machine("cuda")["float32_products"] == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert provenance.machine("cuda")["float32_products"] != "tf32"


@pytest.mark.parametrize("theirs", ["b" * 64, "a" * 64, None])
def test_evidence_on_other_images_under_the_same_name_is_refused(tmp_path, monkeypatch, theirs):
    """Any folder of images is "imagenet", so that two machines may have two."""
    run = Run("imagenet", "lenet5", "prune", rule="pca", criterion="l1", budget="macs:0.5", recipe=RECIPE, dense_recipe=RECIPE)
    data = type("Data", (), {"sha256": "a" * 64})
    monkeypatch.setattr(networks, "loaded", lambda name: data)
    for strict in (False, True):
        store, told = Store(tmp_path / "records", tmp_path / "cache", strict=strict), {"test_accuracy": 0.5, "sha256": "w"}
        images = {"data": {"sha256": theirs}} if theirs else {}
        store.put(run.dense(), {"dense_sha256": "w", "metrics": {"test_accuracy": 0.5}, "provenance": images})
        if theirs != "b" * 64:
            assert networks.same_start(run, store, told) == []
        elif strict:
            with pytest.raises(SlimlibError, match=r"other images.*bbbb.*aaaa.*SLIMLIB_DATA"):
                networks.same_start(run, store, told)
        else:
            assert "other images" in networks.same_start(run, store, told)[0]
