"""What the README says is run: the three-line use on a small network, and its command lines."""

import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

import slimlib
from slimlib.__main__ import _parser
from tests.conftest import Chain, lively_norms

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_three_lines_slim_a_network(tmp_path, monkeypatch):
    (code,) = blocks("python")
    statements = ast.parse(code).body
    assert isinstance(statements[0], ast.Import)
    uses = statements[1:]
    assert len(uses) == 3 and all(s.lineno == s.end_lineno for s in uses), "the use is to stay three lines"
    torch.manual_seed(0)
    model, example_input = lively_norms(Chain()), torch.randn(1, 3, 16, 16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "example_input": example_input}
    exec(compile(code, "README.md", "exec"), names)
    plan, slim = names["plan"], names["slim"]
    assert plan.macs <= 0.5 * plan.full_macs < plan.wider["macs"]
    assert sum(p.numel() for p in slim.parameters()) == plan.params < plan.full_params
    assert type(slim) is Chain and slim(example_input).shape == (1, 5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    (file,) = tmp_path.iterdir()
    again = slimlib.load(file, build=Chain).eval()
    assert torch.equal(again(example_input), slim.eval()(example_input))


def test_the_other_budgets_named_beside_work():
    (code,) = blocks("python")
    others = re.findall(r"(keep_params|threshold)=([\d.]+)", code)
    assert dict(others).keys() == {"keep_params", "threshold"}
    for name, value in others:
        plan = slimlib.plan_widths(lively_norms(Chain()), torch.randn(1, 3, 16, 16), **{name: float(value)})
        assert plan.widths.keys() == {"0", "4", "9"}


@pytest.mark.parametrize("line", [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()
                                  if line.startswith("python -m slimlib")])
def test_command_lines_are_understood(line):
    arguments = _parser().parse_args(shlex.split(line)[3:])
    assert callable(arguments.function)
    if arguments.command == "run":
        assert (ROOT / "notebooks" / f"{arguments.notebook}.ipynb").is_file()
    elif arguments.command == "widths":
        slimlib.models.usual_shape(arguments.model)


def test_every_file_that_it_links_to_is_there():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert len(links) >= 4 and not [link for link in links if not (Path(__file__).resolve().parents[1] / link).exists()]


def test_the_picture_of_the_method_shows_what_is_computed():
    script = runpy.run_path(str(ROOT / "scripts" / "make_method_figure.py"))
    drawn, file = script["computed"](), script["FIGURE"].read_text(encoding="utf-8")
    assert drawn["record"] in file and script["digest"](drawn) in file, "run scripts/make_method_figure.py"
    width = drawn["widths"][script["LAYER"]]
    below, at = drawn["share"][width - 2 : width]
    assert below < script["THRESHOLD"] <= at and len(drawn["share"]) == drawn["filters"]
    texts = {text.get_text() for axis in script["draw"](drawn).axes for text in axis.texts}
    assert {f"w = {width}", *map(str, drawn["widths"].values())} <= texts


def test_the_figure_is_drawn_from_the_records_that_are_there():
    script = runpy.run_path(str(ROOT / "scripts" / "make_readme_figure.py"))
    with Image.open(script["FIGURE"]) as image:
        told = image.text
    found = script["records"]()
    assert told["Records"].split() == sorted(record["key"] for record in found)
    assert told["Digest"] == script["digest"](found), "run scripts/make_readme_figure.py"
    drawing = script["FIGURE"].with_suffix(".svg").read_text(encoding="utf-8")
    assert told["Records"] in drawing and told["Digest"] in drawing, "run scripts/make_readme_figure.py"
