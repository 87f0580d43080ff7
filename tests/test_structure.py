"""How the library hangs together: imports point one way, and no module is long."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

import slimlib

FOLDER = Path(slimlib.__file__).parent
MODULES = {f"slimlib.{path.stem}": path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "__main__")}
LINES = 200

LAYERS = {  # each may import what stands in its own and in those before it; a package belongs to one as a whole
    "method": """_checks _counting _coupling _forward _grouping _index_mapping _operations _probing _tracing _trust _watch
        arguments channel_statistics conformance copying cost criteria cutting errors files filling filters fresh
        layout masking measuring modes moments outputs passing planning plans published randomness request responses rules
        sampling spectrum steps storage surgery tensor_files tracing widths""",
    "training": """_torchvision batches comparison data distillation distributed division downloads evaluation fingerprint
        imagefolder imagenet imagesets latency lesson libraries models precision prefix recipe scan splits training""",
    "study": "project study",
    "book": "__main__ bench book gate kernel notebooks run_command staleness template_cells train_command widths_command",
}
LAYER_OF = {f"slimlib.{name}": layer for layer, names in LAYERS.items() for name in names.split()}
OTHERS = ("pandas", "scipy", "torchvision", "matplotlib", "seaborn", "sklearn", "timm", "tqdm", "yaml", "PIL", "IPython",
          "safetensors", "nbformat", "papermill")
"""What the layers behind the method may need."""


def named(path: Path) -> set[str]:
    """The library's modules, and what is in them, that a file names: by imports, those within functions as well, and by what it
    takes off the package, as in ``slimlib.prune``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively, which is not followed here"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "slimlib":
            found.add(f"slimlib.{node.attr}")
    homes = {f"slimlib.{name}": f"slimlib.{home}" for name, home in slimlib._HOME.items()}
    return {homes.get(name, name) for name in found if name.partition(".")[0] == "slimlib"}


def imported(path: Path) -> set[str]:
    return named(path) & MODULES.keys()


def layer_of(name: str) -> str | None:
    """Of a module, or of what is in a package: that of the package."""
    return LAYER_OF.get(".".join(name.split(".")[:2]))


def test_no_modules_import_each_other():
    try:
        list(TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def test_every_module_has_its_layer():
    every = [f"slimlib.{path.stem}" for path in FOLDER.glob("*.py") if path.stem != "__init__"]
    packages = [f"slimlib.{path.parent.name}" for path in FOLDER.glob("*/__init__.py")]
    assert sorted(LAYER_OF) == sorted(every + packages), "a new module is to be placed in one of the LAYERS"
    assert sum(len(names.split()) for names in LAYERS.values()) == len(LAYER_OF), "a module is in two layers"


def test_imports_point_one_way():
    """Method <- training <- study <- book, within functions too."""
    order, wrong = [*LAYERS], []
    for path in FOLDER.rglob("*.py"):
        name = ".".join(("slimlib", *path.relative_to(FOLDER).with_suffix("").parts))
        if name != "slimlib.__init__":  # which knows the names of all, and loads each when it is asked for
            assert layer_of(name), f"{name} is in none of the LAYERS"
            own = order.index(layer_of(name))
            wrong += [(name, other) for other in named(path) if (its := layer_of(other)) and order.index(its) > own]
    assert not wrong


def test_the_package_loads_nothing_by_itself():
    assert not named(FOLDER / "__init__.py")


def test_the_method_needs_torch_numpy_and_the_dependency_graph_only():
    method = [name for name, layer in LAYER_OF.items() if layer == "method"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({OTHERS}))
import {", ".join(method)}
import torch
from torch import nn
model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)
for rule in ("pca", "neyman"):
    plan = slimlib.plan_widths(model, x, keep_macs=0.5, rule=rule)
    assert slimlib.prune(model, plan)(x).shape == slimlib.thin(model, plan)(x).shape == (2, 4, 4, 4)
print(*(name for name in sys.modules if name.partition(".")[0] == "slimlib"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"slimlib", *method}


def test_the_check_sees_imports_within_functions():
    assert {"slimlib.imagenet", "slimlib.splits"} <= imported(MODULES["slimlib.data"])
    assert "slimlib._tracing" in imported(MODULES["slimlib.tracing"])
    assert {"slimlib.planning", "slimlib.surgery"} <= named(FOLDER / "study" / "stages.py"), "and names off the package"


def test_tables_and_verdicts_need_no_drawing():
    """Who judges records on a machine without a screen, or only prints a table, has no matplotlib to load."""
    code = "import sys; sys.modules['matplotlib'] = None; from slimlib.study import tables, verdict"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_is_long():
    lines = {str(path.relative_to(FOLDER)): len(path.read_text(encoding="utf-8").splitlines()) for path in FOLDER.rglob("*.py")}
    assert len(lines) > len(MODULES), "those of the packages too"
    assert not {name: count for name, count in lines.items() if count > LINES}


def test_every_module_of_the_study_is_found_by_its_name():
    """Whatever was imported before: the package's own lookup is asked."""
    for path in (FOLDER / "study").glob("[a-z]*.py"):
        assert slimlib.study.__getattr__(path.stem).__name__ == f"slimlib.study.{path.stem}"
    with pytest.raises(AttributeError, match="has no attribute 'no_such_module'"):
        slimlib.study.__getattr__("no_such_module")
    folder = FOLDER / "study"
    modules = {path.stem for path in folder.glob("[a-z]*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(slimlib.study.__all__) == modules | slimlib.study._HOME.keys() and dir(slimlib.study) == slimlib.study.__all__
    code = "import sys, slimlib.study; print(*(name for name in sys.modules if name.partition('.')[0] in ('slimlib', 'torch')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["slimlib", "slimlib.study"], "none is loaded before it is asked for"


def test_who_reads_the_code_finds_every_module_in_its_layer():
    """CONTRIBUTING.md has a line for each layer, in their order, and names its modules in the order to read them in."""
    text = (FOLDER.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Where to read")[2].partition("\n## ")[0]
    told = {}
    for line in section.split("\n- **")[1:]:
        layer, _, rest = line.partition("**")
        told[layer] = re.findall(r"`(\w+)`", rest)
    assert [*told] == [*LAYERS]
    for layer, names in LAYERS.items():
        assert sorted(told[layer]) == sorted(names.split()), f"{layer}: a new module is to be named in CONTRIBUTING.md, once"


def test_editors_are_told_the_names_that_the_package_loads():
    """The stub's imports are the table of names, each of its home, and the modules that are offered, each of the package."""
    tree = ast.parse((FOLDER / "__init__.pyi").read_text(encoding="utf-8"))
    told = {alias.asname: f"{node.module}.{alias.name}" for node in tree.body if isinstance(node, ast.ImportFrom)
            for alias in node.names}
    names = {name: f"slimlib.{home}.{name}" for name, home in slimlib._HOME.items()}
    assert told == names | {name: f"slimlib.{name}" for name in slimlib._MODULES} and (FOLDER / "py.typed").exists()
    assert told.keys() == set(slimlib.__all__)


def test_every_module_is_at_hand_once_the_package_is():
    code = f"""
import slimlib
for name in {[name.partition(".")[2] for name in LAYER_OF if not name.endswith("__main__")]}:
    assert getattr(slimlib, name).__name__ == f"slimlib.{{name}}"
try:
    slimlib.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "module 'slimlib' has no attribute 'nothing'", done.stderr


def test_pca_of_weights_loads_no_dependency_graph():
    code = "import sys; import slimlib.spectrum, slimlib.planning; print('torch_pruning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_the_version_is_told_once_and_the_citation_names_it():
    """The package's own is the source: what builds the wheel reads it there."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "slimlib.__version__"}
    citation = yaml.safe_load((FOLDER.parent / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == slimlib.__version__
