"""`python -m slimlib train` and `status`: the runs of a profile, made and counted."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from slimlib.errors import SlimlibError

BESIDE = "SLIMLIB_BESIDE"  # set for the processes that `train --jobs` starts: what is said once, the first has said
PROFILE = "a name under notebooks/profiles/: quick, laptop, paper, imagenet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("profile", help=PROFILE)
    parser.add_argument("--jobs", type=int, default=1, help="processes that train at the same time (default: 1)")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="these runs only, and what they start from")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED",
                        help="the runs of these seeds only: so machines that share no folder can each take whole seeds")
    parser.add_argument("--list", action="store_true", help="train nothing: the runs without a record, as JSON")


def run(args: argparse.Namespace) -> None:
    """Train what has no record yet, alone or in several processes, and tell the profile's status."""
    if args.jobs < 1:
        raise SlimlibError(f"--jobs {args.jobs}: at least 1")
    if args.jobs > 1 and "WORLD_SIZE" in os.environ:
        raise SlimlibError(f"--jobs {args.jobs}: torchrun has started processes that train each run together; leave --jobs out")
    from slimlib import study
    from slimlib.distributed import joined
    from slimlib.study import grid

    profile = study.load_profile(args.profile)  # an unknown name is refused before any process starts
    runs, store = grid.chosen(profile, args.only, args.seeds), profile.store()
    if args.list:
        print(json.dumps(grid.jobs(profile, runs=runs), indent=1))
        return
    chosen = [text for name in ("only", "seeds") if (given := getattr(args, name)) for text in (f"--{name}", *map(str, given))]
    # Each process takes the runs that no other is at: the locks of the store share the work out
    command = [sys.executable, "-m", "slimlib", "train", args.profile, *chosen]
    environment = _share_of_cores(args.jobs) | {BESIDE: "1"}
    others = [subprocess.Popen(command, env=environment) for _ in range(args.jobs - 1)]
    try:
        with joined() as world:  # alone, unless torchrun started this process
            if store.strict and world.rank == 0 and not os.environ.get(BESIDE):
                _warn_of_the_code()
            study.ensure(runs, store, progress=world.rank == 0)
    except SlimlibError:
        raise  # of one run: the others go on
    except BaseException:
        for process in others:
            process.terminate()
        raise
    finally:
        failed = sum(process.wait() != 0 for process in others)
    if failed:
        raise SlimlibError(f"{failed} of {args.jobs} processes failed: see above; the same command goes on")
    if world.rank == 0:
        try:
            status(args)
        except Exception as error:  # of others' records: Snakemake removes what a job that fails has made, here a good record
            print(f"slimlib: the runs are recorded, but the profile's status cannot be told: {error}", file=sys.stderr)


def status(args: argparse.Namespace) -> None:
    """Print how many runs of the profile are recorded, study by study, and how long the others may take."""
    from slimlib import study
    from slimlib.study.names import duration

    told = study.status(study.load_profile(args.profile))
    column = max(map(len, told["studies"]))
    for name, counts in told["studies"].items():
        print(f"  {name:<{column}}  {counts['recorded']:>5} of {counts['runs']} runs recorded")
    took, left = duration(told["seconds_recorded"]), duration(told["seconds_left"])
    print(f"{told['profile']}: {told['recorded']} of {told['runs']} runs recorded in {took}, "
          f"{told['missing']} missing, about {left} left")  # fmt: skip
    if unlisted := told["unlisted"]:
        print(f"{len(unlisted)} records there are of no run that a profile lists, as after a change of a recipe: "
              f"{', '.join(unlisted[:5])}{', ...' if len(unlisted) > 5 else ''}")  # fmt: skip


def _warn_of_the_code() -> None:
    """Say on standard error where records will name code that nobody else has."""
    from slimlib.study import provenance

    code = provenance.code_version()
    if not code["commit"] or code["dirty"]:
        why = "it has uncommitted changes" if code["commit"] else "it is not in a git checkout"
        print(f"slimlib: the records will be evidence, but nobody can find their code again: {why}", file=sys.stderr)


def _share_of_cores(jobs: int) -> dict[str, str]:
    """This process takes its share of the cores from here on, unless OMP_NUM_THREADS says how many; the others' environment."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return dict(os.environ)
    import torch

    threads = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(threads)
    return os.environ | {"OMP_NUM_THREADS": str(threads)}
