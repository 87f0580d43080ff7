"""The command line: `python -m slimlib <command>`. Each command is a few lines over a function of the library."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from slimlib import run_command, widths_command
from slimlib.errors import SlimlibError

BESIDE = "SLIMLIB_BESIDE"  # set for the processes that `train --jobs` starts: what is said once, the first has said
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimlib", description="Network widths from PCA of the filters.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(function=function)
        return sub

    sub = command("run", run_command.run, "execute one notebook with other parameters")
    run_command.add_arguments(sub)

    sub = command("book", book, "execute all notebooks of the book that are not up to date, and build its pages")
    sub.add_argument("--profile", help="only execute the notebooks of this profile, and build nothing")
    sub.add_argument("--force", action="store_true", help="execute also what is up to date (finished runs are kept)")

    sub = command("status", status, "how many runs of a profile are recorded, and which are missing")
    sub.add_argument("profile", help="a name under notebooks/profiles/: quick, laptop, paper, imagenet")

    sub = command("train", train, "execute the runs of a profile that have no record yet")
    sub.add_argument("profile", help="a name under notebooks/profiles/: quick, laptop, paper, imagenet")
    sub.add_argument("--jobs", type=int, default=1, help="processes that train at the same time (default: 1)")
    sub.add_argument("--only", nargs="+", metavar="KEY", help="these runs only, and what they start from")
    sub.add_argument("--seeds", nargs="+", type=int, metavar="SEED",
                     help="the runs of these seeds only: so machines that share no folder can each take whole seeds")
    sub.add_argument("--list", action="store_true", help="train nothing: the runs without a record, as JSON")

    sub = command("widths", widths_command.run, "the widths that PCA, or another rule, gives a network, layer by layer")
    widths_command.add_arguments(sub)

    sub = command("bench", bench, "measure slimlib's speed on this machine against limits and rivals")
    sub.add_argument("--only", metavar="PART[,PART]", help="import, widths, prune, train, notebook, growth")
    sub.add_argument("--full", action="store_true", help="also the largest layers, up to 16,384 x 4,096: some minutes more")
    sub.add_argument("--rounds", type=int, metavar="N", help="turns that each contestant takes (default: 3 to 9, by part)")
    sub.add_argument("-o", "--output", metavar="FILE", help="default: book/records/bench/<machine>.json, and its page")
    return parser


def book(args: argparse.Namespace) -> None:
    from slimlib.book import execute_all, make_book
    from slimlib.project import project_root

    if args.profile:
        execute_all(project_root(), args.profile, args.force)
    else:
        print(f"The book is ready: open {make_book(force=args.force)}")


def status(args: argparse.Namespace) -> None:
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


def train(args: argparse.Namespace) -> None:
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


def _warn_of_the_code() -> None:
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


def bench(args: argparse.Namespace) -> None:
    from slimlib import bench as benchmark

    if args.rounds is not None and args.rounds < 1:
        raise SlimlibError(f"--rounds {args.rounds}: at least 1")
    only = [name for part in (args.only or "").split(",") if (name := part.strip())]
    if args.only is not None and not only:
        raise SlimlibError(f"--only {args.only!r} names no part; leave it out for all of them")
    print(f"Written: {benchmark.main(only, args.full, args.output, rounds=args.rounds)}")


def _end_in_order() -> None:
    """A scheduler's SIGTERM ends the process as an error would: locks are released and half-made files removed."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one clear message for what the user can mend."""
    args = _parser().parse_args(argv)
    try:
        _end_in_order()
        args.function(args)
        sys.stdout.flush()  # so that a closed pipe is met here
    except SlimlibError as error:
        print(f"slimlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("slimlib: stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough: nothing is wrong, and the interpreter's last flush must not say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as a shell tells of a process that SIGPIPE ended
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        print(f"slimlib: {error}; written to are the book's folder and those that SLIMLIB_CACHE and SLIMLIB_DATA name",
              file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
