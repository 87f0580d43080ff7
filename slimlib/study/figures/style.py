"""One style for all figures, one colour and marker a rule, the data behind each figure written beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from slimlib.errors import SlimlibError
from slimlib.study import table_html
from slimlib.study.names import capital, network_name, signed, slug, uncoupled
from slimlib.study.profiles import load_profile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe & Ito's colours, safe for all common kinds of colour blindness, and a dark one. The rules that pages compare with each
# other have these; their variants and the controls, which stand in rows of their own, have tints and greys. Markers differ
# throughout, so that no two rules look alike in grey either.
BLUE, SKY, GREEN, YELLOW, ORANGE, RED, PINK, WINE = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#B8A500",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#882255",
)
GREY, PALE, BLACK = "#7A7A7A", "#CFCFCF", "#222222"
LOOKS: dict[str, tuple[str, str]] = {
    "dense": (BLACK, "*"),
    "pca": (BLUE, "o"),
    "pca_uncentred": (SKY, "8"),
    "pca_folded": ("#332288", "s"),
    "pca_budgeted": ("#6699CC", "D"),
    "pca_budgeted(folded=True)": ("#9DB8DC", "p"),
    "activation_pca": ("#44AA99", "H"),
    "neyman": (RED, "P"),
    "neyman_score": (RED, "P"),
    "sensitivity": (PINK, "X"),
    "uniform": (ORANGE, "^"),
    "global_l1": (GREEN, "v"),
    "global_bn": (YELLOW, "1"),
    "hand": ("#AA4499", "h"),
    "tilt": ("#C88B80", "<"),
    "best_tilt": (WINE, ">"),
    "random": ("#6E6E6E", "x"),
    "permuted": ("#858585", "+"),
    "pca_at_init": (GREY, "d"),
    "depth": ("#5A5A5A", "2"),
}
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "lines.markeredgewidth": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "slimlib",
    "savefig.bbox": "tight",
    "figure.dpi": 100,
}
WIDE = 7.4  # inches: the text width of the book


def use_style() -> None:
    """Make this the style of all figures from here on, SVG what notebooks embed, and tables show their cells whole.

    pandas cuts long cells off by default: a record's key or a hash that cannot be read in full cannot be followed. In notebooks
    tables are shown by `table_html.shown`; what they hold is as it was.
    """
    import pandas as pd
    import seaborn as sns

    pd.set_option("display.max_colwidth", None)
    table_html.use()

    sns.set_theme(style="ticks", rc=STYLE)
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})  # the same figure is the same file
    except (ImportError, AttributeError):  # not in a notebook
        pass


def look(arm: str) -> tuple[str, str]:
    """Colour and marker of an arm; variants without one of their own look as their rule does."""
    arm = uncoupled(arm)
    return LOOKS.get(arm) or LOOKS.get(re.split(r"[(]", arm)[0]) or (GREY, ".")


def points_scale(axis: Any, along: str) -> None:
    """Differences in points on a scale that is linear up to a tenth of a point and logarithmic beyond; ``along`` "x" or "y"."""
    getattr(axis, f"set_{along}scale")("symlog", linthresh=0.1, linscale=0.6)
    ticks = getattr(axis, f"{along}axis")
    ticks.set_major_locator(FixedLocator([-10, -1, -0.1, 0, 0.1, 1, 10]))
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: signed(value, 1 if abs(value) == 0.1 else 0) if value else "0"))


NO_RUN = "no run of this comparison is recorded yet"


def nothing(told: str = NO_RUN) -> Figure:
    """A small panel that says why there is no figure: pages stay whole while the evidence is still being made."""
    fig, axis = plt.subplots(figsize=(WIDE, 0.7))
    axis.set_axis_off()
    axis.text(0.5, 0.5, told, ha="center", va="center", color=GREY, style="italic", transform=axis.transAxes)
    return fig


def show(
    fig: Figure,
    data: pd.DataFrame,
    name: str,
    profile: str = "quick",
    folder: str | Path | None = None,
    title: str | None = None,
) -> Figure:
    """Write a figure's data and drawing, <name>.csv and .svg, to the profile's `figure_data`, and return the figure.

    As the last expression of a cell it is displayed exactly once. `folder` takes the place of that folder; `title` is
    written above the panels, where a cell shows several figures. The figure's label, where it has one, is what it found.
    Title, label and links to both files go with the figure as Markdown; on the book's pages they stand in its caption.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise SlimlibError(f"name={name!r} becomes a file name: use small letters, digits, - and _")
    target = (Path(folder) if folder is not None else load_profile(profile).figure_data) / f"{name}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    data.to_csv(target, index=not _plain_index(data), float_format="%.8g")
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    fig.savefig(target.with_suffix(".svg"), metadata={"Date": None})
    fig.set_layout_engine("none")  # a second pass of the layout would move things: the page has the drawing of the file
    beside = f"{target.parent.name}/{name}"
    links = f"{fig.get_label()} [Data (CSV)]({beside}.csv) · [drawing (SVG)]({beside}.svg)".strip()
    told = "\n\n".join(filter(None, [title and f"{capital(title)} (profile {profile}).", links]))
    fig._repr_mimebundle_ = lambda **_: {"text/markdown": told}  # IPython adds the image to what is given here
    plt.close(fig)  # the notebook's backend would show it a second time
    return fig


def show_each(
    networks: Iterable[tuple[tuple[str, str], Any]],
    draw: Callable[[Any, str, str], tuple[Figure, pd.DataFrame]],
    name: str,
    profile: str,
    otherwise: str = NO_RUN,
) -> None:
    """Display one figure a network, one after the other, each under its network's name; ``otherwise`` where there is none.

    networks   of `Evidence.networks()`
    draw       takes a network's part of the frame, its data set and its model; returns the figure and its data
    """
    from IPython.display import display

    shown = 0
    for (dataset, model), part in networks:
        fig, data = draw(part, dataset, model)
        display(show(fig, data, slug(name, dataset, model), profile, title=network_name(dataset, model)))
        shown += 1
    if not shown:
        fig = nothing(otherwise)
        plt.close(fig)
        display(fig)


def _plain_index(data: pd.DataFrame) -> bool:
    return data.index.name is None and list(data.index) == list(range(len(data)))
