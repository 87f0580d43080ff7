"""The notebooks through papermill, as a reader runs them, on the smallest grid that shows all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"01_one_layer": {"threshold": 0.8}, "02_whole_network": {"keep_macs": 0.4}, "03_sensitivity": {"models": "[vgg_small]"},
         "04_pruning": {"seed": 0, "keep_macs": 0.3, "arms": "[pca, uniform]", "models": "[vgg_small]"},
         "05_distillation": {"seed": 0, "keep_macs": 0.3, "arms": "[pca]"},
         "08_milliseconds": {"models": "[vgg_small]", "keeps": "[0.5]", "rules": "[uniform]", "repeats": 3},
         "10_a_better_rule": {"seeds": "[0]", "model": "vgg_small", "models": "[vgg_small]", "arms": "[neyman]", "draws": 5,
                              "images": 20}}


def test_templates_have_no_outputs_and_declare_parameters():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells), path.name
        assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1, path.name
        assert max(len(cell["source"]) for cell in cells if cell["cell_type"] == "code") <= 20, path.name


def test_every_figure_has_a_caption_and_a_text_in_its_place():
    shown = 0
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code" and any(line.startswith("figures.show") for line in cell["source"]):
                told = cell["metadata"].get("mystnb", {})
                assert told.get("figure", {}).get("caption") and told.get("image", {}).get("alt"), (path.name, cell["source"])
                shown += 1
    assert shown > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_with_other_parameters(name, tmp_path):
    given = [part for key, value in SMALL[name].items() for part in ("-p", f"{key}={value}")]
    command = [sys.executable, "-m", "slimlib", "run", name, *given, "-o", str(tmp_path / "out.ipynb")]
    environment = {"OMP_NUM_THREADS": "2"} | os.environ
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert all(output["output_type"] != "error" for cell in cells for output in cell.get("outputs", []))


def test_an_undeclared_parameter_is_refused_with_the_declared_ones(tmp_path):
    command = [sys.executable, "-m", "slimlib", "run", "04_pruning", "-p", "kepp_macs=0.3", "-o", str(tmp_path / "out.ipynb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "kepp_macs" in done.stderr and "keep_macs" in done.stderr
    assert not (tmp_path / "out.ipynb").exists()
