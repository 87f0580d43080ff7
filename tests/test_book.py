"""Executing notebooks, the gate, and the command line, on throw-away notebooks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest

from slimlib import book, notebooks
from slimlib.__main__ import main
from slimlib.errors import SlimlibError
from slimlib.staleness import inputs_digest
from slimlib.study import Store, load_profile
from slimlib.study.profiles import Profile

REPOSITORY = Path(__file__).resolve().parents[1]
PARAMETERS = 'profile: str = "quick"  # which runs\nseed: int = 0  # of the random numbers'


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    """A template: a title, the parameters, and one code cell for each source."""
    cells = [nbformat.v4.new_markdown_cell(f"# {path.stem}")]
    cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def project(tmp_path):
    """An empty project: what `project_root` looks for."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n")
    (tmp_path / "_config.yml").write_text("title: Small\n")
    return tmp_path


def outputs(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))


def test_parameters_reach_the_notebook_and_it_runs_in_the_root_with_this_python(project):
    source = "import os, sys\nprint(seed * 2, profile, os.getcwd(), sys.executable)"
    template = write_notebook(project / "notebooks" / "one.ipynb", source)
    output = project / "out" / "one.ipynb"
    assert notebooks.execute(template, output, {"seed": 21})
    assert outputs(output).split() == ["42", "quick", str(project), sys.executable]
    made = json.loads(output.read_text())
    assert made["metadata"]["slimlib"]["parameters"] == {"seed": 21}
    assert len(made["cells"]) == 3
    shown = "".join(made["cells"][1]["source"])
    assert shown == PARAMETERS.replace("seed: int = 0", "seed: int = 21"), "one cell tells the values used, with their comments"
    assert str(project) not in json.dumps(made["metadata"]), "no machine's path in the page's metadata"
    assert [p.name for p in output.parent.iterdir()] == ["one.ipynb"], "nothing half-made beside it"


def test_the_users_kernels_are_not_used(project, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("jupyter")
    spec = elsewhere / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "wrong", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(elsewhere))
    template = write_notebook(project / "notebooks" / "one.ipynb", "print('ran')")
    notebooks.execute(template, project / "one.ipynb")
    assert outputs(project / "one.ipynb") == "ran\n"
    assert os.environ["JUPYTER_PATH"] == str(elsewhere), "the environment is put back"


def test_an_undeclared_parameter_is_refused_with_the_list(project):
    template = write_notebook(project / "notebooks" / "one.ipynb", "print(seed)")
    with pytest.raises(SlimlibError, match=r"no parameter 'sede'(.|\n)*profile = \"quick\"(.|\n)*seed = 0 .*random"):
        notebooks.execute(template, project / "out.ipynb", {"sede": 1})
    assert not (project / "out.ipynb").exists()


def test_a_notebook_without_a_parameters_cell_is_refused(project):
    path = project / "plain.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("seed = 1")]), path)
    with pytest.raises(SlimlibError, match="no cell is tagged 'parameters'"):
        notebooks.execute(path, project / "out.ipynb")


def test_parameters_that_json_has_no_form_for_are_texts_or_refused_before_anything_runs(project):
    """As YAML reads -p seed=2024-05-01 for a date."""
    template = write_notebook(project / "notebooks" / "one.ipynb", "print(repr(seed))")
    output = project / "out" / "one.ipynb"
    assert notebooks.execute(template, output, {"seed": date(2024, 5, 1)})
    assert outputs(output) == "'2024-05-01'\n"
    assert json.loads(output.read_text())["metadata"]["slimlib"]["parameters"] == {"seed": "2024-05-01"}
    round_and_round = [1]
    round_and_round.append(round_and_round)
    for value in ({date(2024, 5, 1): 1}, round_and_round):
        with pytest.raises(SlimlibError, match=r"parameter seed=.* cannot be written into the notebook"):
            notebooks.execute(template, output, {"seed": value})
    assert [path.name for path in output.parent.iterdir()] == ["one.ipynb"] and outputs(output) == "'2024-05-01'\n"


@pytest.mark.parametrize("content", ["a template", "[1, 2]", "some notes", b"\xff"])
def test_what_was_not_made_by_executing_is_never_overwritten(project, content):
    template = write_notebook(project / "notebooks" / "one.ipynb", "print(seed)")
    other = project / "notebooks" / "two.ipynb"
    write_notebook(other, "work of days")
    if content != "a template":
        other.write_bytes(content if isinstance(content, bytes) else content.encode())
    before, there = other.read_bytes(), sorted(other.parent.iterdir())
    for force in (False, True):
        with pytest.raises(SlimlibError, match=r"two\.ipynb was not made by executing a notebook.*name another file"):
            notebooks.execute(template, other, {"seed": 1}, force=force)
    assert other.read_bytes() == before and sorted(other.parent.iterdir()) == there


@pytest.mark.parametrize("at", ["cells", "finish"])
def test_a_stop_at_any_moment_leaves_nothing_half_made(project, monkeypatch, at):
    template = write_notebook(project / "notebooks" / "one.ipynb", "pass")

    def stop(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(*((papermill, "execute_notebook", stop) if at == "cells" else
                          (notebooks, "without_empty_sections", stop)))
    with pytest.raises(KeyboardInterrupt):
        notebooks.execute(template, project / "out" / "one.ipynb", page=True)
    assert not [path for path in (project / "out").iterdir() if path.is_file()]


def test_a_failing_notebook_names_cell_and_error_and_leaves_no_output(project):
    template = write_notebook(
        project / "notebooks" / "one.ipynb", "x = 1", "a = 2\nraise ValueError('no such data set')", "print('later')"
    )
    output = project / "one.ipynb"
    with pytest.raises(notebooks.NotebookError) as caught:
        notebooks.execute(template, output, {"seed": 3})
    message = str(caught.value)
    assert "one.ipynb failed in cell 4 of 5" in message
    assert "    a = 2" in message and "ValueError: no such data set" in message
    assert not output.exists()
    failed = project / "one.failed.ipynb"
    assert failed.exists() and "later" not in outputs(failed)
    # once mended, the remains are gone
    write_notebook(template, "x = 1")
    notebooks.execute(template, output)
    assert output.exists() and not failed.exists()


def test_a_kernel_that_dies_is_an_error_that_names_the_cell(project):
    dying = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    template = write_notebook(project / "notebooks" / "one.ipynb", "x = 1", dying)
    with pytest.raises(notebooks.NotebookError, match=r"cell 4 of 4(.|\n)*os\.kill(.|\n)*DeadKernelError"):
        notebooks.execute(template, project / "one.ipynb")


def test_what_is_up_to_date_is_not_repeated_and_what_changed_is(project):
    template = write_notebook(project / "notebooks" / "one.ipynb", "print(seed)")
    output = project / "one.ipynb"
    assert notebooks.execute(template, output, {"seed": 1})
    made = output.read_bytes()
    assert not notebooks.execute(template, output, {"seed": 1})
    assert output.read_bytes() == made
    assert notebooks.execute(template, output, {"seed": 2}), "other parameters"
    assert outputs(output) == "2\n"
    write_notebook(template, "print(seed + 1)")
    assert notebooks.execute(template, output, {"seed": 2}), "another source"
    assert notebooks.execute(template, output, {"seed": 2}, force=True)


def test_recorded_profiles_depend_on_records_and_the_live_one_does_not(project):
    template = write_notebook(project / "notebooks" / "one.ipynb", "pass")
    states = {name: inputs_digest(template, {"profile": name}, project) for name in ("quick", "paper")}
    record = project / "book" / "records" / "mnist-lenet5" / "abc.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert inputs_digest(template, {"profile": "quick"}, project) == states["quick"]
    assert inputs_digest(template, {"profile": "paper"}, project) != states["paper"]


@pytest.mark.parametrize(("declared", "counts"), [
    ('profile: str = "laptop"  # of records', True), ('profile = "paper"', True), ('profile: str = "quick"', False),
    ('names = ["quick"]\nprofile = names[0]', True), ("seed: int = 0", True),
])  # fmt: skip
def test_the_templates_own_profile_decides_whether_records_count_where_none_is_given(project, declared, counts):
    template = write_notebook(project / "notebooks" / "one.ipynb", "pass", parameters=declared)
    before = inputs_digest(template, {}, project)
    record = project / "book" / "records" / "mnist-lenet5" / "abc.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert (inputs_digest(template, {}, project) != before) is counts


def test_a_killed_book_goes_on_where_it_stopped(project):
    write_notebook(project / "notebooks" / "01_first.ipynb", "print('first')")
    flag = project / "go"
    waiting = f"import pathlib, time\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(.1)\nprint('second')"
    write_notebook(project / "notebooks" / "02_second.ipynb", waiting)
    toc = project / "book" / "_toc.yml"
    toc.write_text(toc.read_text() + "  - file: results/quick/01_first\n  - file: results/quick/02_second\n")
    results = project / "book" / "results" / "quick"
    command = [sys.executable, "-m", "slimlib", "book", "--profile", "quick"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with open(project / "log", "w") as log:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not list(results.glob(".02_second.*")):
            assert process.poll() is None and time.monotonic() < deadline, (project / "log").read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [p.name for p in results.glob("[!.]*")] == ["01_first.ipynb"]
    made = (results / "01_first.ipynb").stat().st_mtime_ns
    flag.touch()
    again = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    assert "01_first (quick) up to date" in again.stderr and "02_second (quick) executed" in again.stderr
    assert (results / "01_first.ipynb").stat().st_mtime_ns == made
    # the half-made copy of the killed process is a fault to the gate; a whole `book` clears it away, then builds
    with pytest.raises(SlimlibError, match=r"02_second\.\d+\.partial\.ipynb: left over"):
        book.gate(results)
    with pytest.raises(SlimlibError):  # this throw-away project has no pages to build
        book.make_book(project)
    assert len(book.gate(results)) == 2


def test_the_gate_passes_good_notebooks_and_catches_every_fault(project):
    template = write_notebook(project / "notebooks" / "one.ipynb", "print(1)")
    results = project / "results"
    notebooks.execute(template, results / "quick" / "one.ipynb")
    assert [p.name for p in book.gate(results)] == ["one.ipynb"]

    def broken(change) -> str:
        content = json.loads((results / "quick" / "one.ipynb").read_text())
        change(content["cells"][-1])
        (results / "quick" / "two.ipynb").write_text(json.dumps(content))
        with pytest.raises(SlimlibError) as caught:
            book.gate(results)
        (results / "quick" / "two.ipynb").unlink()
        return str(caught.value)

    error = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []}
    assert "quick/two.ipynb: cell 3: KeyError: 'x'" in broken(lambda cell: cell["outputs"].append(error))
    assert "cell 3: pending" in broken(lambda cell: cell["metadata"]["papermill"].update(status="pending"))
    assert "cell 3: not executed" in broken(lambda cell: cell["metadata"].pop("papermill"))
    tag = {"tags": ["papermill-error-cell-tag"]}
    assert "marks a failed run" in broken(lambda cell: cell.update(cell_type="markdown", metadata=tag))
    (results / "quick" / "one.failed.ipynb").write_text("{}")
    with pytest.raises(SlimlibError, match=r"one\.failed\.ipynb: left over"):
        book.gate(results)
    with pytest.raises(SlimlibError, match="no executed notebook"):
        book.gate(project / "nothing")


def test_a_failing_notebook_stops_the_book_before_any_page_is_built(project):
    write_notebook(project / "notebooks" / "01_bad.ipynb", "1 / 0")
    toc = project / "book" / "_toc.yml"
    toc.write_text(toc.read_text() + "  - file: results/quick/01_bad\n")
    with pytest.raises(notebooks.NotebookError, match=r"01_bad\.ipynb failed in cell 3(.|\n)*ZeroDivisionError"):
        book.make_book(project)
    assert not (project / "_build").exists()


def test_an_experiment_of_a_reader_leaves_the_pages_alone(project, monkeypatch):
    """Neither its failure nor what it writes is the book's: the front page is made of what the verdict page wrote."""
    source = "import os, pathlib\nfolder = pathlib.Path(os.environ['SLIMLIB_RESULTS'])\nfolder.mkdir(exist_ok=True)\n"
    source += "(folder / 'data.txt').write_text(str(seed))\n1 / (seed < 9)"
    template = write_notebook(project / "notebooks" / "one.ipynb", source)
    toc = project / "book" / "_toc.yml"
    toc.write_text(toc.read_text() + "  - file: results/quick/one\n")
    monkeypatch.setattr(book, "build", lambda root: root)
    book.make_book(project)
    results = project / "book" / "results"
    notebooks.execute(template, results / "mine" / "one.ipynb", {"seed": 8})
    with pytest.raises(notebooks.NotebookError):
        notebooks.execute(template, results / "mine" / "one-9.ipynb", {"seed": 9})
    folders = ("quick/data", "mine/one-data", "mine/one-9-data")
    assert [(results / folder / "data.txt").read_text() for folder in folders] == ["0", "8", "9"], "nor of one another"
    book.make_book(project)


def test_what_a_change_left_that_was_taken_back_stops_no_book(project, monkeypatch):
    template = write_notebook(project / "notebooks" / "one.ipynb", "seed")
    toc = project / "book" / "_toc.yml"
    toc.write_text(toc.read_text() + "  - file: results/quick/one\n")
    monkeypatch.setattr(book, "build", lambda root: root)
    book.make_book(project)
    good = template.read_text()
    write_notebook(template, "1 / 0")
    with pytest.raises(notebooks.NotebookError):
        book.make_book(project)
    assert list(project.rglob("one.failed.ipynb"))
    template.write_text(good)
    book.make_book(project)
    assert not list(project.rglob("*.failed.ipynb"))


@pytest.mark.parametrize("stop", ["1 / 0", "by hand"])
def test_a_page_whose_data_a_later_state_began_to_write_is_not_up_to_date(project, monkeypatch, stop):
    """The data lie beside all pages of a profile, and are written while a notebook runs."""
    write = "import os, pathlib\nfolder = pathlib.Path(os.environ['SLIMLIB_RESULTS'])\nfolder.mkdir(exist_ok=True)\n"
    write += "(folder / 'data.txt').write_text({!r})"
    template = write_notebook(project / "notebooks" / "one.ipynb", write.format("old"))
    output = project / "results" / "one.ipynb"
    notebooks.execute(template, output, page=True)
    good, page = template.read_text(), json.loads(output.read_text())
    if stop == "by hand":
        real = papermill.execute_notebook
        stopped = project / "stopped.ipynb"

        def execute_and_stop(*arguments, **how):
            real(*arguments, **how)
            stopped.touch()
            raise KeyboardInterrupt

        write_notebook(template, write.format("new"))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(papermill, "execute_notebook", execute_and_stop)
            notebooks.execute(template, output, page=True)
        assert stopped.exists()
    else:
        write_notebook(template, write.format("new"), stop)
        with pytest.raises(notebooks.NotebookError):
            notebooks.execute(template, output, page=True)
    data = output.parent / "data" / "data.txt"
    assert data.read_text() == "new" and json.loads(output.read_text())["cells"] == page["cells"], "the page is still to be read"
    template.write_text(good)
    assert notebooks.execute(template, output, page=True) and data.read_text() == "old"
    assert json.loads(output.read_text())["metadata"]["slimlib"] == page["metadata"]["slimlib"]
    assert not notebooks.execute(template, output, page=True)


def test_what_an_interrupted_build_of_the_pages_left_is_read_anew(project, monkeypatch):
    """Of what Sphinx has read it warns no more, and what it had not read yet it does not miss."""
    doctrees = project / "_build" / ".doctrees"
    index = project / "_build" / "html" / "index.html"
    found, ending = [], [KeyboardInterrupt, 0, 0, 1, 0]

    def sphinx(*arguments, **how):
        found.append(doctrees.exists())
        for folder in (doctrees, index.parent):
            folder.mkdir(parents=True, exist_ok=True)
        index.touch()
        if (end := ending[len(found) - 1]) is KeyboardInterrupt:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(arguments, end, stdout="")

    monkeypatch.setattr(book.subprocess, "run", sphinx)
    with pytest.raises(KeyboardInterrupt):
        book.build(project)
    assert doctrees.exists()
    assert book.build(project) == book.build(project) == index
    with pytest.raises(SlimlibError, match="without warnings"):
        book.build(project)
    book.build(project)
    assert found == [False, False, True, True, False], "only a whole build's are used again"
    assert sorted(path.name for path in index.parents[1].iterdir()) == [".doctrees", "html"]


def test_pages_are_made_anew_when_the_code_of_captions_changes(monkeypatch):
    """Sphinx keeps pages as that code has left them, and looks at this number."""
    app = SimpleNamespace(connect=lambda *event, **how: None)
    version = book.setup(app)["env_version"]
    assert isinstance(version, int) and version == book.setup(app)["env_version"]
    monkeypatch.setattr(book, "_complete_captions", lambda app, doctree: None)
    assert book.setup(app)["env_version"] != version


def test_a_warning_of_sphinx_is_an_error(project, capfd):
    (project / "book" / "intro.md").write_text("# Small\n\nSee {ref}`nowhere`.\n")
    (project / "_config.yml").write_text((REPOSITORY / "_config.yml").read_text())
    (project / "book" / "_static").mkdir()
    (project / "book" / "references.bib").write_text("")
    (project / "book" / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    with pytest.raises(SlimlibError, match="could not be built without warnings"):
        book.build(project)
    assert "nowhere" in capfd.readouterr().err
    with pytest.raises(SlimlibError, match="could not be built without warnings"):
        book.build(project)  # which would not read again what it has read


def test_every_page_of_the_real_table_of_contents_has_its_template():
    listed = book.pages(REPOSITORY)
    assert len(listed) == len(set(listed)) >= 5
    missing = [name for _, name in listed if not (REPOSITORY / "notebooks" / f"{name}.ipynb").is_file()]
    assert not missing


# --- command line ---------------------------------------------------------------------------------------------------


def test_run_reads_values_as_yaml_and_writes_where_it_says(project, monkeypatch, capsys):
    write_notebook(project / "notebooks" / "one.ipynb", "print(repr(seed), repr(profile))")
    monkeypatch.chdir(project)
    assert main(["run", "one", "-p", "seed=[1, 2.5]", "-p", "profile=null", "-o", "mine.ipynb"]) == 0
    assert outputs(project / "mine.ipynb") == "[1, 2.5] None\n"
    assert main(["run", "one", "-p", "seed=7"]) == 0
    mine = project / "book" / "results" / "mine"
    assert outputs(mine / "one-seed-7.ipynb") == "7 'quick'\n"
    assert main(["run", "one", "-p", "profile=a b"]) == main(["run", "one", "-p", "profile=a/b"]) == 0
    assert len(list(mine.glob("one-profile-a_b-*.ipynb"))) == 2, "one is not the other"
    assert main(["run", "one", "--list"]) == 0
    assert "seed = 0   of the random numbers" in capsys.readouterr().out


def test_a_reader_that_stops_early_is_no_error():
    reads, writes = os.pipe()
    os.close(reads)  # as `| head` does when it has what it wants
    with os.fdopen(writes, "w") as closed:
        done = subprocess.run([sys.executable, "-m", "slimlib", "status", "quick"], cwd=REPOSITORY, stdout=closed,
                              stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_processes_of_torchrun_are_not_multiplied(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "quick", "--jobs", "2"]) == 2
    assert "torchrun has started processes" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SLIMLIB_CACHE", str(tmp_path / "file" / "cache"))
    run = next(r for r in load_profile("quick").runs() if r.stage == "dense")
    monkeypatch.setattr(Profile, "store", lambda self: Store(tmp_path / "records"))
    assert main(["train", "quick", "--only", run.key]) == 2
    told = capsys.readouterr().err
    assert "file/cache" in told and "SLIMLIB_CACHE" in told and "Traceback" not in told


def test_a_profile_without_a_page_is_refused_with_those_that_have_some(project, monkeypatch, capsys):
    toc = project / "book" / "_toc.yml"
    listed = ("quick/one", "laptop/one", "quick/two")
    toc.write_text(toc.read_text() + "".join(f"  - file: results/{page}\n" for page in listed))
    monkeypatch.chdir(project)
    assert main(["book", "--profile", "grand"]) == 2
    assert capsys.readouterr().err == ("slimlib: profile 'grand' has no page in book/_toc.yml; "
                                       "profiles there: laptop, quick\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "nothing"], "no notebook 'nothing'; notebooks/ has: one"),
        (["run", "one", "-p", "seed"], "write name=value"),
        (["run", "one", "-p", "seed=[1"], "not YAML"),
        (["run", "one", "-p", "seed=7", "-p", "profile=a", "-p", "seed=8"], "-p seed=8: seed is given twice"),
        (["run", "one", "-p", "sede=1"], "declares no parameter 'sede'"),
        (["run", "one", "-o", "out.html"], "ends in .ipynb"),
        (["run", "one", "-o", "notebooks/one.ipynb"], "one.ipynb cannot be executed into itself"),
        (["book", "--profile", "grand"], "profile 'grand' has no page"),
        (["train", "quick", "--jobs", "0"], "--jobs 0"),
        (["widths", "vgg_small", "--keep-macs", "0.5", "--input", "3x32"], "--input '3x32'"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(project, monkeypatch, capsys, arguments, reason):
    write_notebook(project / "notebooks" / "one.ipynb", "pass")
    monkeypatch.chdir(project)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("slimlib: ") and reason in error and "Traceback" not in error
