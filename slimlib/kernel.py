"""The kernel that notebooks are executed in: this interpreter, whatever the user has installed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_kernel(data: Path) -> Iterator[None]:
    """For the time of the block, "python3" is the running interpreter, whatever kernels the user has installed.

    The user's IPython profile stays out as well, as its start-up files could change results; figures are drawn inline. The
    data of its figures go to the folder `data`: an experiment of one's own leaves those of the book's pages alone.
    """
    with tempfile.TemporaryDirectory(prefix="slimlib-kernel-") as folder:
        spec = Path(folder) / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel = {"argv": argv, "display_name": "Python 3", "language": "python"}
        kernel["metadata"] = {"supported_encryption": ["curve"]}
        (spec / "kernel.json").write_text(json.dumps(kernel))
        changes = {
            "JUPYTER_PATH": os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")])),
            "IPYTHONDIR": str(Path(folder) / "ipython"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "SLIMLIB_RESULTS": str(data),
        }
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
