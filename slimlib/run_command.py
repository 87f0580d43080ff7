"""`python -m slimlib run`: one notebook with other parameters."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError
from slimlib.project import project_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("notebook", help="a path, or the name of a notebook under notebooks/: 04_pruning")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter that the notebook declares, its value in YAML: -p seed=7 -p 'rules=[pca]'")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: book/results/mine/<name>[-<values>].ipynb")
    parser.add_argument("--list", action="store_true", help="only list the notebook's parameters")


def run(args: argparse.Namespace) -> None:
    """Execute the notebook, or list its parameters."""
    from slimlib.notebooks import declared_parameters, execute

    template = _template(args.notebook)
    if args.list:
        for p in declared_parameters(template).values():
            print(f"{p['name']} = {p['default']}   {p['help']}".rstrip())
        return
    parameters: dict[str, Any] = {}
    for text in args.parameter:
        name, value = assignment(text)
        if name in parameters:
            raise SlimlibError(f"-p {text}: {name} is given twice; give it one value")
        parameters[name] = value
    if args.output:
        output = Path(args.output)
    else:
        values = "".join(f"-{name}-{value}" for name, value in sorted(parameters.items()))
        output = project_root() / "book" / "results" / "mine" / f"{_file_name(template.stem + values)}.ipynb"
    if output.suffix != ".ipynb":
        raise SlimlibError(f"-o {output}: name a file that ends in .ipynb")
    ran = execute(template, output, parameters)
    print(f"{output}{'' if ran else ' (up to date)'}")


def _file_name(told: str) -> str:
    """The text without what a file system may refuse; of a long one, or one that lost something, a hash keeps it apart."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", told)[:100]
    return name if name == told else f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _template(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    folder = project_root() / "notebooks"
    candidate = folder / f"{path.name.removesuffix('.ipynb')}.ipynb"
    if len(path.parts) == 1 and candidate.is_file():
        return candidate
    known = ", ".join(sorted(p.stem for p in folder.glob("*.ipynb"))) or "none"
    raise SlimlibError(f"no notebook {name!r}; notebooks/ has: {known}")


def assignment(text: str) -> tuple[str, Any]:
    """The name and the value, read as YAML, of "name=value"."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SlimlibError(f"-p {text!r}: write name=value, for example -p seed=7")
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return name, float(value)  # which YAML 1.1 takes for text
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SlimlibError(f"-p {text!r}: the value is not YAML ({error})") from error
