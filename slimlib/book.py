"""The whole book: execute its notebooks, gate them, build the pages.

The table of contents says which notebooks belong to it: the page results/<profile>/<name> is notebooks/<name>.ipynb,
executed with profile=<profile>, under the title that stands there if one does. Sphinx renders, through Jupyter Book 1.x, and is
called from here only.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError
from slimlib.gate import abandoned, gate
from slimlib.notebooks import NotebookError, execute, relative
from slimlib.project import project_root

__all__ = ["NotebookError", "build", "execute", "execute_all", "gate", "make_book", "pages", "project_root", "setup"]


def pages(root: Path) -> list[tuple[str, str]]:
    """The notebooks that the table of contents lists as results/<profile>/<name>, in its order: [(profile, name)]."""
    return list(_listed(root))


def _listed(root: Path) -> dict[tuple[str, str], str | None]:
    """`pages`, with the title that the table of contents gives a page, if it gives one."""
    import yaml

    def entries(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict) and "file" in node:
            yield node
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from entries(child)

    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))
    found = ((re.fullmatch(r"results/([\w-]+)/([\w.-]+?)(?:\.ipynb)?", entry["file"]), entry) for entry in entries(toc))
    return {(match[1], match[2]): entry.get("title") for match, entry in found if match}


def execute_all(root: Path, profile: str | None = None, force: bool = False) -> None:
    """Execute every notebook of the table of contents (of one profile only, if named), one after the other."""
    listed = _listed(root)
    wanted = [page for page in listed if profile in (None, page[0])]
    if not wanted:
        known = ", ".join(sorted({kind for kind, _ in listed})) or "none"
        raise SlimlibError(f"profile {profile!r} has no page in book/_toc.yml; profiles there: {known}")
    for number, (kind, name) in enumerate(wanted, start=1):
        label = f"[{number}/{len(wanted)}] {name} ({kind})"
        start = time.monotonic()
        print(f"{label} ...", file=sys.stderr, flush=True)
        ran = execute(
            root / "notebooks" / f"{name}.ipynb",
            root / "book" / "results" / kind / f"{name}.ipynb",
            {"profile": kind},
            root=root,
            force=force,
            page=True,
            title=listed[kind, name],
        )
        result = f"executed in {time.monotonic() - start:.0f} s" if ran else "up to date"
        print(f"{label} {result}", file=sys.stderr, flush=True)


def build(root: Path) -> Path:
    """Render the pages with every Sphinx warning an error. Returns the path of the index."""
    doctrees, unfinished = root / "_build" / ".doctrees", root / "_build" / ".unfinished"
    if unfinished.exists():  # Sphinx was ended within its work: what it keeps of that lacks warnings and dependencies
        shutil.rmtree(doctrees, ignore_errors=True)
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.touch()
    # the package has no __main__, and a jupyter-book on PATH may be another environment's
    command = "from jupyter_book.cli.main import main; main()"
    arguments = ["build", "book", "-n", "-W", "--keep-going"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], cwd=root, stdin=subprocess.DEVNULL, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    if done.returncode:
        # what Sphinx has read once it warns of no more, and a second call would call the same pages good
        shutil.rmtree(doctrees, ignore_errors=True)
    unfinished.unlink()
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SlimlibError("the pages could not be built without warnings: see Jupyter Book's report above")
    index = root / "_build" / "html" / "index.html"
    if not index.is_file():
        raise SlimlibError(f"Jupyter Book reported success and wrote no {relative(index, root)}")
    return index


def make_book(root: str | Path | None = None, force: bool = False) -> Path:
    """Execute what is not up to date, gate it, build the pages. Returns the path of the index."""
    root = Path(root).resolve() if root else project_root()
    for partial in abandoned(root / "book" / "results"):
        partial.unlink()
    execute_all(root, force=force)
    for profile in dict.fromkeys(profile for profile, _ in pages(root)):  # a reader's own experiments beside them may fail
        gate(root / "book" / "results" / profile)
    print("building the pages ...", file=sys.stderr, flush=True)
    return build(root)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this, as _config.yml lists this module: it completes captions, and puts MathJax beside the pages.

    MathJax is one file of 2 MB (SVG output, no fonts), taken from a pip package, instead of that package's own extension,
    which copies 24 MB.
    """
    app.connect("doctree-read", _complete_captions, priority=400)  # before Sphinx collects what is to be downloaded
    app.connect("build-finished", _copy_mathjax)
    # Sphinx keeps pages with their captions completed; with another number here it makes them all anew
    version = zlib.crc32(inspect.getsource(_complete_captions).encode())
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": version}


def _complete_captions(app: Any, doctree: Any) -> None:
    """Move what a figure tells of itself (see `figures.show`) into its caption and its image's alternative text.

    MyST-NB gives all figures of one cell the same caption, and of what an output holds it shows the image alone.
    """
    from docutils import nodes
    from sphinx.addnodes import download_reference

    for figure in list(doctree.findall(nodes.figure)):
        told = next((c for c in figure.findall(nodes.container) if c.get("mime_type") == "text/markdown"), None)
        images, captions = list(figure.findall(nodes.image)), list(figure.findall(nodes.caption))
        if told is None or not images or not captions:
            continue
        *title, links = told.children
        for paragraph in title:
            captions[0].insert(0, nodes.Text(f"{paragraph.astext()} "))
            for image in images:
                image["alt"] = f"{paragraph.astext()} {image.get('alt', '')}".strip()
        for link in list(links.findall(nodes.reference)):  # Sphinx copies such files, and complains of one that is missing
            link.replace_self(download_reference("", "", *link.children, reftarget=link["refuri"]))
        told.parent.remove(told)
        figure += nodes.legend("", links)


def _copy_mathjax(app: Any, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise SlimlibError("the package sphinx-mathjax-offline is missing: pip install -r requirements.lock")
    source = Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js"
    target = Path(app.outdir) / "_static" / "mathjax" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
