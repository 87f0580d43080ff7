"""A profile as jobs: the list, single runs by key, and Snakemake's workflow, run here and dry-run for Slurm."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slimlib import study
from slimlib.__main__ import main
from slimlib.errors import SlimlibError
from slimlib.study import grid

ROOT = Path(__file__).resolve().parents[1]
PROFILE = """
name: tiny
evidence: false
train: live
records: records
description: one dense network, and two that start from it
seeds: 1
recipes:
  short: {epochs: 1, lr: 0.005, batch_size: 500, precision: float32}
studies:
  dense:
    - {dataset: fashionmnist-10k, model: lenet5, stage: dense, recipe: short, seconds: 7200}
  scratch:
    - {dataset: fashionmnist-10k, model: lenet5, stage: scratch, arms: [pca, uniform], budget: "macs:0.2",
       dense_recipe: short, recipe: short, seconds: 5}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the small profile, and the book's Snakefile."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "tiny.yml").write_text(PROFILE)
    shutil.copy(ROOT / "notebooks" / "Snakefile", tmp_path / "notebooks")
    monkeypatch.setenv("SLIMLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def snakemake(project: Path, *arguments: str, config: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Snakemake on the profile. It may live in another environment: SNAKEMAKE names its command."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = os.environ.get("SNAKEMAKE") or shutil.which("snakemake", path=beside)
    if command is None:
        pytest.skip("snakemake is not installed: pip install 'slimlib[grid]', or SNAKEMAKE=/path/to/snakemake")
    command = [command, "-s", "notebooks/Snakefile", *arguments, "--config", "profile=tiny", f"python={sys.executable}", *config]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_jobs_are_the_missing_runs_with_what_they_need_first(project):
    profile = study.load_profile("tiny", project)
    jobs = grid.jobs(profile)
    assert [job["key"] for job in jobs] == [run.key for run in profile.runs()] and len(jobs) == 3
    assert jobs[0]["needs"] == [] and all(job["needs"] == [jobs[0]["record"]] for job in jobs[1:])
    assert [job["seconds"] for job in jobs] == [7200, 5, 5]
    dense = profile.runs("dense")[0]
    profile.store().put(dense, {})
    left = grid.jobs(profile)
    assert grid.jobs(profile, runs=grid.chosen(profile, [jobs[2]["key"]])) == [jobs[2]]
    assert left == jobs[1:] and (project / left[0]["needs"][0]).is_file()


def test_a_run_is_found_by_the_start_of_its_key_and_never_guessed(project):
    profile = study.load_profile("tiny", project)
    run = profile.runs()[1]
    assert grid.by_key(profile, [run.key, run.key[:10]]) == [run, run]
    for wrong in ("", "zzz"):
        with pytest.raises(SlimlibError, match=rf"key='{wrong}' names (3|0) runs"):
            grid.by_key(profile, [wrong])


def test_whole_seeds_are_chosen_by_number():
    profile = study.load_profile("laptop")
    part = grid.chosen(profile, seeds=[3, 1])
    assert part == [run for run in profile.runs() if run.seed in (1, 3)] and {run.seed for run in part} == {1, 3}
    assert grid.chosen(profile, [run.key for run in part[:2]], [part[0].seed]) == part[:2]
    with pytest.raises(SlimlibError, match=rf"none of the runs {part[0].key} is of the seeds 3; give keys or seeds"):
        grid.chosen(profile, [part[0].key], [3])
    with pytest.raises(SlimlibError, match=r"seed 9 is not in profile 'laptop'; it has 0, 1, 2, 3, 4"):
        grid.chosen(profile, seeds=[1, 9])


def test_seeds_that_only_a_grid_has_are_chosen_too(project):
    file = project / "notebooks" / "profiles" / "tiny.yml"
    file.write_text(PROFILE.replace("seconds: 5}", "seconds: 5, seeds: [7]}"))
    assert {run.seed for run in grid.chosen(study.load_profile("tiny", project), seeds=[7])} == {7}


def test_another_runs_record_that_cannot_be_read_is_no_failure_of_the_runs_that_were_made(project, monkeypatch, capsys):
    """Of a job that fails, Snakemake removes the record."""
    store, runs = study.load_profile("tiny", project).store(), study.load_profile("tiny", project).runs()
    store.put(runs[0], {"provenance": {"seconds": 1.0}})
    store.path(runs[1]).parent.mkdir(parents=True, exist_ok=True)
    store.path(runs[1]).write_text("{")
    monkeypatch.chdir(project)
    assert main(["train", "tiny", "--only", runs[0].key]) == 0
    assert f"{runs[1].key}.json is not valid JSON" in capsys.readouterr().err
    assert main(["status", "tiny"]) == main(["train", "tiny", "--only", runs[1].key]) == 2


@pytest.mark.slow
def test_the_command_makes_one_run_and_what_it_starts_from(project):
    jobs = grid.jobs(study.load_profile("tiny", project))
    command = [sys.executable, "-m", "slimlib", "train", "tiny"]
    done = subprocess.run([*command, "--only", jobs[2]["key"]], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 of 3 runs recorded" in done.stdout
    listed = subprocess.run([*command, "--list"], cwd=project, capture_output=True, text=True, check=True)
    assert json.loads(listed.stdout) == [jobs[1]]


@pytest.mark.slow
def test_the_workflow_trains_what_is_missing_and_never_touches_a_record_again(project):
    profile = study.load_profile("tiny", project)
    store, runs = profile.store(), profile.runs()
    done = snakemake(project, "--cores", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert store.missing(runs) == []
    records = [store.path(run).read_bytes() for run in runs]
    store.path(runs[2]).unlink()  # one is lost, one looks older than what it was made from: only the lost one is a job
    os.utime(store.path(runs[0]))
    again = snakemake(project, "--cores", "2")
    assert again.returncode == 0 and store.missing(runs) == [], again.stderr[-3000:]
    assert [store.path(run).read_bytes() for run in runs[:2]] == records[:2]
    assert "1 of 1 steps (100%) done" in again.stderr or "2 of 2 steps (100%) done" in again.stderr, again.stderr[-2000:]


def test_a_dry_run_for_slurm_asks_for_a_gpu_and_time_by_the_estimate(project):
    help_ = snakemake(project, "--help")
    if "--slurm-" not in help_.stdout:
        pytest.skip("snakemake-executor-plugin-slurm is not installed: pip install 'slimlib[grid]'")
    done = snakemake(project, "--executor", "slurm", "--jobs", "10", "--dry-run", "--default-resources", "slurm_partition=gpu",
                     config=("gpus=1",))
    assert done.returncode == 0, done.stderr[-3000:]
    plan = done.stdout + done.stderr
    assert plan.count("rule run:") == 3 and plan.count("gpu=1") == 3
    assert plan.count("runtime=600") == 1 and plan.count("runtime=30") == 2 and "slurm_partition=gpu" in plan
    assert not (project / "records").exists()


def test_processes_of_a_job_with_several_gpus_train_its_run_together(project):
    commands = {}
    for gpus in (1, 8):
        done = snakemake(project, "--cores", "16", "--dry-run", "--printshellcmds", config=(f"gpus={gpus}", "cpus=16"))
        assert done.returncode == 0, done.stderr[-3000:]
        told = (done.stdout + done.stderr).splitlines()
        commands[gpus] = [line[line.index("OMP_NUM") :] for line in told if "-m slimlib train tiny --only" in line]
        assert len(commands[gpus]) == 3
    for alone, together in zip(commands[1], commands[8], strict=True):
        assert alone.startswith(f"OMP_NUM_THREADS=16 {sys.executable} -m slimlib train")
        several = "-m torch.distributed.run --standalone --nproc-per-node=8 -m slimlib"
        assert together == alone.replace("-m slimlib", several).replace("THREADS=16", "THREADS=2")
