"""`python -m slimlib widths`: the widths that a rule gives a network, layer by layer, and why other layers stay whole."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import TYPE_CHECKING

from slimlib import arguments
from slimlib.errors import SlimlibError
from slimlib.files import folder_must_exist

if TYPE_CHECKING:  # nothing heavy is loaded before a command is known
    from torch import nn

NEED_DATA = {"activation_pca": "calibration=images", "sensitivity": "drops=the measured losses of accuracy"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("model", help='"vgg16", "resnet56", "torchvision:resnet50", "timm:resnet50", or pretrained: '
                                      '"cifar10/resnet56"')
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--keep-macs", type=float, metavar="F", help="fraction of the multiply-adds to keep, in (0, 1]")
    budget.add_argument("--keep-params", type=float, metavar="F", help="fraction of the parameters to keep, in (0, 1]")
    budget.add_argument("--threshold", type=float, metavar="T", help="share of the variance to reach in each layer, in (0, 1]")
    parser.add_argument("--weights", metavar="FILE", help="a state dict: .safetensors, or .pt/.pth/.th without code")
    parser.add_argument("--input", metavar="C,H,W", help="shape of one example (default: what the network is usually given)")
    parser.add_argument("--classes", type=int, help="outputs of the network (default: 1000 for torchvision and timm, else 10)")
    parser.add_argument("--rule", default="pca", help="how widths are chosen: any rule that needs no data (default: pca)")
    parser.add_argument("--coupling", default="inner", choices=["inner", "joint"],
                        help="slim only layers with a width of their own, or also those tied by shortcuts (default: inner)")
    parser.add_argument("--uncentred", action="store_true", help="spectra of filters that are not centred")
    parser.add_argument("--fill", action="store_true", help="spend what the widest plan leaves of the budget")
    parser.add_argument("--round-to", type=int, default=1, metavar="N",
                        help="widths are rounded up to multiples of N, or whole (default: 1)")
    parser.add_argument("--min-width", type=int, default=1, metavar="N", help="filters that each layer keeps at least")
    parser.add_argument("--seed", type=int, default=0,
                        help="of untrained weights, and of the rules random, permuted and pca_at_init (default: 0)")
    parser.add_argument("--power", type=float, help="of the rule tilt: kept fraction ~ (full width) ** power")
    parser.add_argument("--published", help="of the rule hand: vgg16-A, resnet56-A or resnet56-B")
    parser.add_argument("-o", "--output", metavar="FILE", help="also save the plan as JSON")


def run(args: argparse.Namespace) -> None:
    """Print the table of the plan; write the plan where ``-o`` says."""
    import torch

    import slimlib

    if args.rule in NEED_DATA:
        raise SlimlibError(f"--rule {args.rule} needs data: call slimlib.plan_widths(..., rule={args.rule!r}, "
                           f"{NEED_DATA[args.rule]}) from Python")
    if args.output:
        folder_must_exist(args.output, "--output")
    arguments.seed("--seed", args.seed)
    model, shape = _network(args)
    budget = {k: v for k in ("keep_macs", "keep_params", "threshold") if (v := getattr(args, k)) is not None}
    options = {k: v for k in ("power", "published") if (v := getattr(args, k)) is not None}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        plan = slimlib.plan_widths(
            model.eval(), torch.zeros(1, *shape), rule=args.rule, coupling=args.coupling, center=not args.uncentred,
            fill=args.fill, round_to=args.round_to, min_width=args.min_width, seed=args.seed, **budget, **options)
    print(plan)
    for warning in said:
        print(f"note: {warning.message}", file=sys.stderr)
    if args.output:
        plan.save(args.output)


def _network(args: argparse.Namespace) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network that the arguments name, with its weights, and the shape of an example."""
    from slimlib import models
    from slimlib.randomness import seeded
    from slimlib.storage import load_weights

    published = "/" in args.model and ":" not in args.model
    if args.classes is not None and args.classes < 1:
        raise SlimlibError(f"--classes {args.classes}: at least 1")
    if args.classes is not None and published:
        raise SlimlibError(f"--classes {args.classes}: the weights of {args.model} fix its outputs; leave --classes out")
    shape, classes = models.usual_shape(args.model)
    if args.input:
        shape = _shape(args.input)
    if args.classes is not None:
        classes = args.classes
    with seeded(args.seed):  # the same widths each time, without weights too
        model = models.pretrained(args.model) if published else models.build(args.model, classes, shape[0])
    if args.weights:
        load_weights(model, args.weights)
    elif not published:
        print("no --weights: these are the widths of an untrained network", file=sys.stderr)
    return model, shape


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise SlimlibError(f"--input {text!r}: write channels,height,width, for example 3,32,32") from None
    if min(channels, height, width) < 1:
        raise SlimlibError(f"--input {text!r}: channels, height and width are at least 1")
    return channels, height, width
