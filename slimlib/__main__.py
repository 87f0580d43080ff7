"""The command line: `python -m slimlib <command>`. Each command is a few lines over a function of the library."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from typing import Any

from slimlib import run_command, train_command, widths_command
from slimlib.errors import SlimlibError

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

    sub = command("status", train_command.status, "how many runs of a profile are recorded, and which are missing")
    sub.add_argument("profile", help=train_command.PROFILE)

    sub = command("train", train_command.run, "execute the runs of a profile that have no record yet")
    train_command.add_arguments(sub)

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
