"""The command line: `python -m slimlib <command>`. Each command is a few lines over a function of the library."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimlib", description="Network widths from PCA of the filters.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(function=function)
        return sub

    sub = command("run", run, "execute one notebook with other parameters")
    sub.add_argument("notebook", help="a path, or the name of a notebook under notebooks/: 04_pruning")
    sub.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
                     help="a parameter that the notebook declares, its value in YAML: -p seed=7 -p 'rules=[pca]'")
    sub.add_argument("-o", "--output", metavar="FILE", help="default: book/results/mine/<name>[-<values>].ipynb")
    sub.add_argument("--list", action="store_true", help="only list the notebook's parameters")

    sub = command("book", book, "execute all notebooks of the book that are not up to date, and build its pages")
    sub.add_argument("--profile", help="only execute the notebooks of this profile, and build nothing")
    sub.add_argument("--force", action="store_true", help="execute also what is up to date (finished runs are kept)")

    sub = command("status", status, "how many runs of a profile are recorded, and which are missing")
    sub.add_argument("profile", help="a name under notebooks/profiles/: quick, laptop, paper, imagenet")

    sub = command("train", train, "execute the runs of a profile that have no record yet")
    sub.add_argument("profile", help="a name under notebooks/profiles/: quick, laptop, paper, imagenet")
    sub.add_argument("--jobs", type=int, default=1, help="processes that train at the same time (default: 1)")

    sub = command("widths", widths, "the widths that PCA gives a network, layer by layer")
    sub.add_argument("model", help='"vgg16", "resnet56", "torchvision:resnet50", or pretrained: "cifar10/resnet56"')
    budget = sub.add_mutually_exclusive_group(required=True)
    budget.add_argument("--keep-macs", type=float, metavar="F", help="fraction of the multiply-adds to keep, in (0, 1]")
    budget.add_argument("--keep-params", type=float, metavar="F", help="fraction of the parameters to keep, in (0, 1]")
    budget.add_argument("--threshold", type=float, metavar="T", help="cumulative contribution to reach in each layer")
    sub.add_argument("--weights", metavar="FILE", help="a state dict (.safetensors, or .pt/.th without code)")
    sub.add_argument("--input", default="3,32,32", metavar="C,H,W", help="shape of one example (default: 3,32,32)")
    sub.add_argument("--classes", type=int, default=10, help="outputs of the network (default: 10)")
    sub.add_argument("--rule", default="pca", help="how widths are chosen (default: pca)")
    sub.add_argument("--coupling", default="inner", choices=["inner", "joint"],
                     help="layers tied by shortcuts")
    sub.add_argument("-o", "--output", metavar="FILE", help="also save the plan as JSON")

    sub = command("bench", bench, "time the slimmed networks on this machine")
    sub.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def run(args: argparse.Namespace) -> None:
    from slimlib.notebooks import declared_parameters, execute, project_root

    template = _template(args.notebook)
    if args.list:
        for p in declared_parameters(template).values():
            print(f"{p['name']} = {p['default']}   {p['help']}".rstrip())
        return
    parameters = dict(_assignment(text) for text in args.parameter)
    if args.output:
        output = Path(args.output)
    else:
        values = "".join(f"-{name}-{value}" for name, value in sorted(parameters.items()))
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", template.stem + values)[:120]
        output = project_root() / "book" / "results" / "mine" / f"{name}.ipynb"
    if output.suffix != ".ipynb":
        raise SlimlibError(f"-o {output}: name a file that ends in .ipynb")
    ran = execute(template, output, parameters)
    print(f"{output}{'' if ran else ' (up to date)'}")


def _template(name: str) -> Path:
    from slimlib.book import project_root

    path = Path(name)
    if path.is_file():
        return path
    folder = project_root() / "notebooks"
    candidate = folder / f"{path.name.removesuffix('.ipynb')}.ipynb"
    if len(path.parts) == 1 and candidate.is_file():
        return candidate
    known = ", ".join(sorted(p.stem for p in folder.glob("*.ipynb"))) or "none"
    raise SlimlibError(f"no notebook {name!r}; notebooks/ has: {known}")


def _assignment(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SlimlibError(f"-p {text!r}: write name=value, for example -p seed=7")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SlimlibError(f"-p {text!r}: the value is not YAML ({error})") from error


def book(args: argparse.Namespace) -> None:
    from slimlib.book import execute_all, make_book, project_root

    if args.profile:
        execute_all(project_root(), args.profile, args.force)
    else:
        print(f"The book is ready: open {make_book(force=args.force)}")


def status(args: argparse.Namespace) -> None:
    from slimlib import study

    told = study.status(study.load_profile(args.profile))
    column = max(map(len, told["studies"]))
    for name, counts in told["studies"].items():
        print(f"  {name:<{column}}  {counts['recorded']:>5} of {counts['runs']} runs recorded")
    took, left = _duration(told["seconds_recorded"]), _duration(told["seconds_left"])
    print(f"{told['profile']}: {told['recorded']} of {told['runs']} runs recorded in {took}, "
          f"{told['missing']} missing, about {left} left")  # fmt: skip


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def train(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise SlimlibError(f"--jobs {args.jobs}: at least 1")
    from slimlib import study

    profile = study.load_profile(args.profile)  # an unknown name is refused before any process starts
    # Each process takes the runs that no other is at: the locks of the store share the work out
    others = [subprocess.Popen([sys.executable, "-m", "slimlib", "train", args.profile]) for _ in range(args.jobs - 1)]
    try:
        study.ensure(profile.runs(), profile.store())
    finally:
        failed = sum(process.wait() != 0 for process in others)
    if failed:
        raise SlimlibError(f"{failed} of {args.jobs} processes failed: see above; the same command goes on")
    status(args)


def widths(args: argparse.Namespace) -> None:
    import torch

    import slimlib
    from slimlib import models

    shape = _shape(args.input)
    if "/" in args.model:
        model = models.pretrained(args.model)
    else:
        model = models.build(args.model, num_classes=args.classes, in_channels=shape[0])
        if not args.weights:
            print("no --weights: these are the widths of an untrained network", file=sys.stderr)
    if args.weights:
        model.load_state_dict(_weights(Path(args.weights)))
    budget = {k: v for k in ("keep_macs", "keep_params", "threshold") if (v := getattr(args, k)) is not None}
    plan = slimlib.plan_widths(model.eval(), torch.zeros(1, *shape), rule=args.rule, coupling=args.coupling, **budget)
    column = max(map(len, plan.widths), default=5)
    print(f"{'layer':<{column}}  full  kept  fraction")
    for name, width in plan.widths.items():
        full = plan.full_widths[name]
        print(f"{name:<{column}}  {full:>4}  {width:>4}  {width / full:>8.3f}")
    print(f"parameters {plan.params:,} of {plan.full_params:,} ({plan.params / plan.full_params:.1%}), "
          f"MACs {plan.macs:,} of {plan.full_macs:,} ({plan.macs / plan.full_macs:.1%})")  # fmt: skip
    if args.output:
        plan.save(args.output)


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise SlimlibError(f"--input {text!r}: write channels,height,width, for example 3,32,32") from None
    return channels, height, width


def _weights(path: Path) -> dict[str, Any]:
    """A state dict from a file that can hold no code."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise SlimlibError(f"--weights {path}: no such file")
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def bench(args: argparse.Namespace) -> None:
    try:
        from slimlib import bench as benchmark
    except ImportError:
        raise SlimlibError("bench: this version has no benchmark yet") from None
    benchmark.main(args.arguments)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one clear message for what the user can mend."""
    args = _parser().parse_args(argv)
    try:
        args.function(args)
    except SlimlibError as error:
        print(f"slimlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("slimlib: stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
