"""Pages made of one template for several profiles, and what they are made of."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

import slimlib
from slimlib import book, notebooks, template_cells

ROOT = Path(__file__).resolve().parents[1]


def cell(kind: str, source: str, *tags: str, **more):
    return getattr(nbformat.v4, f"new_{kind}_cell")(source, metadata={"tags": list(tags)} if tags else {}, **more)


def template(folder: Path, *cells) -> Path:
    """A title, the parameters, and the cells."""
    parameters = cell("code", 'profile: str = "quick"  # which runs', "parameters")
    path = folder / "one.ipynb"
    cells = [cell("markdown", "# One\n\n# comment"), parameters, *cells]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def made(path: Path, **options) -> list[str]:
    """The sources of the cells of the executed notebook."""
    output = path.with_name("out.ipynb")
    notebooks.execute(path, output, root=path.parent, **options)
    return [c["source"] for c in nbformat.read(output, as_version=4).cells]


def test_a_page_has_the_cells_of_its_kind_and_who_runs_a_notebook_has_all(tmp_path):
    kinds = cell("code", "a = 1", "quick-page", "hide-input"), cell("code", "b = 2", "recorded-page")
    path = template(tmp_path, *kinds, cell("code", "c = 3"))
    for profile, kind in (("quick", ["a = 1"]), ("laptop", ["b = 2"])):
        assert made(path, parameters={"profile": profile}, page=True)[2:] == [*kind, "c = 3"]
        assert made(path, parameters={"profile": profile})[2:] == ["a = 1", "b = 2", "c = 3"]


def test_an_error_names_the_cell_by_its_number_in_the_template(tmp_path):
    path = template(tmp_path, cell("code", "a = 1", "quick-page"), cell("markdown", "more", "quick-page"), cell("code", "a"))
    with pytest.raises(notebooks.NotebookError, match=r"failed in cell 5 of 5(.|\n)*NameError"):
        made(path, parameters={"profile": "laptop"}, page=True)


def test_an_optional_section_without_anything_to_show_is_not_on_the_page(tmp_path):
    silent, speaking = "x = len(profile)", "import sys\nprint('working', file=sys.stderr)\nif x == 6: print('found')"
    path = template(tmp_path, cell("markdown", "## Maybe", "if-shown"), cell("code", silent), cell("code", speaking),
                    cell("markdown", "## Always"), cell("code", "y = x"))
    assert made(path, parameters={"profile": "laptop"}, page=True)[2:] == ["## Maybe", silent, speaking, "## Always", "y = x"]
    assert made(path, parameters={"profile": "quick"}, page=True)[2:] == ["## Always", "y = x"], "its variables are there"
    assert len(made(path, parameters={"profile": "quick"})) == 7


def test_the_first_heading_is_the_title_of_the_table_of_contents(tmp_path):
    path = template(tmp_path)
    assert made(path, title="One: the recorded runs")[0] == "# One: the recorded runs\n\n# comment"
    assert made(path)[0] == "# One\n\n# comment"


def test_values_stand_in_the_parameters_cell_with_types_and_comments():
    source = 'a: str = "é"  # the first = 1\nb: list = [\n    1,\n]  # the second\nc = None\nd: int = 3  # stays'
    found = template_cells.with_values(source, {"a": 'say "u"', "b": ["x", 2.5, None], "c": True}, "one.ipynb")
    wanted = 'a: str = "say \\"u\\""  # the first = 1\nb: list = ["x", 2.5, None]  # the second\nc = True\nd: int = 3  # stays'
    assert found == wanted
    assert template_cells.with_values(source, {}, "one.ipynb") == source
    with pytest.raises(slimlib.SlimlibError, match=r"one\.ipynb: parameter 'e' has no line"):
        template_cells.with_values(source, {"e": 1}, "one.ipynb")


def test_pages_of_one_template_differ_in_title_and_share_no_exercise():
    listed = book._listed(ROOT)
    assert [*listed] == book.pages(ROOT)
    titles, labels = [], []
    for (profile, name), title in listed.items():
        cells = template_cells.filled_in(ROOT / "notebooks" / f"{name}.ipynb", {"profile": profile}, True, title)[0].cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        titles.append(re.search(r"^# (.*)$", text, flags=re.MULTILINE)[1])
        exercises = re.findall(r"^:label: (\S+)$", text, flags=re.MULTILINE)
        assert exercises == re.findall(r"^```\{solution(?:-start)?\} (\S+)$", text, flags=re.MULTILINE), (profile, name)
        labels += exercises
    assert len(titles) == len(set(titles)) and len(labels) == len(set(labels))


def test_tags_of_cells_are_known():
    ours = {template_cells.QUICK_PAGE, template_cells.RECORDED_PAGE, template_cells.IF_SHOWN}
    known = {"parameters", "hide-input", "hide-output", "remove-input", *ours}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for one in nbformat.read(path, as_version=4).cells:
            assert set(template_cells.tags_of(one)) <= known, path.name


def test_the_reference_has_every_public_name():
    text = (ROOT / "book" / "reference.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.\. auto(?:function|class|exception):: slimlib\.(\w+)$", text, flags=re.MULTILINE))
    assert named == {name for name in slimlib.__all__ if callable(getattr(slimlib, name))}
    members = [set(found.split(", ")) for found in re.findall(r"^   :members: (.*)$", text, flags=re.MULTILINE)]
    for described in (slimlib.RULES, slimlib.CRITERIA):
        assert any(set(described) - {"random"} <= listed for listed in members)
