"""How much accuracy a network loses when one width at a time is cut, nothing retrained (Li et al. 2017, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from slimlib import arguments
from slimlib.arguments import A_MODEL, kind
from slimlib.criteria import Criterion, choose_filters
from slimlib.cutting import cut
from slimlib.errors import SlimlibError
from slimlib.evaluation import caster, evaluate, must_have_images
from slimlib.layout import Layout
from slimlib.prefix import SharedPrefix
from slimlib.splits import Data, LabelledImages
from slimlib.tracing import given_or_traced

if TYPE_CHECKING:
    import pandas as pd


def sensitivity(
    model: nn.Module, data: Data | LabelledImages, ratios: Iterable[float] = (0.25, 0.5, 0.75, 0.9),
    criterion: str | Criterion = "l1", *, coupling: str = "inner", layout: Layout | None = None, seed: int = 0,
    progress: bool = True, batch_size: int = 1000,
) -> pd.DataFrame:
    """Accuracy after removing a share of one group's filters at a time, as a pandas DataFrame.

    ``data`` is a Data (its *validation* part is used, so that test images select nothing) or a Split. ``ratios`` are the
    shares removed, in (0, 1); at least one filter stays. ``criterion`` as of :func:`slimlib.prune`, ``seed`` of ``random``;
    ``coupling`` and ``layout`` as of :func:`slimlib.width_path`. The model is moved to the data's device. ``batch_size``: images
    at a time, which memory must hold.

    One row a group and ratio: ``group``, ``ratio``, ``width``, ``full_width``, ``accuracy``, ``drop`` (dense accuracy less this
    one). The first row of a group, ratio 0, is the dense one.

    Raises SlimlibError for ratios out of range, where there are no images, and for a model or criterion that fails on them.
    """
    import pandas as pd
    from tqdm import tqdm

    kind("ratios", ratios, Iterable, "a list of shares, such as [0.5]")
    ratios = [arguments.number("ratios", r) for r in ratios]
    if any(not 0 < r < 1 for r in ratios):
        raise SlimlibError(f"ratios={ratios} must lie strictly between 0 and 1: they are the shares of filters removed")
    seed, batch_size = arguments.seed("seed", seed), arguments.count("batch_size", batch_size, "images")
    split = getattr(data, "val", data)
    kind("model", model, nn.Module, A_MODEL)
    must_have_images(split)
    model.to(split.device)
    layout = given_or_traced(layout, model, caster(model)(next(iter(split.in_order(1)))[0]))
    groups = layout.slimmable(coupling)
    dense, shared = evaluate(model, split, batch_size), SharedPrefix(model, split, batch_size)
    rows = []
    with tqdm(total=len(groups) * len(ratios), desc="sensitivity", disable=not progress, mininterval=1) as bar:
        for g in groups:
            rows.append((g.name, 0.0, g.width, g.width, dense, 0.0))
            for ratio in ratios:
                width = max(1, round(g.width * (1 - ratio) / g.blocks)) * g.blocks
                keep = choose_filters(model, layout, {g.name: width}, criterion, seed)
                accuracy = shared.accuracy(cut(model, layout, keep), [m.module for m in g.writers()])
                rows.append((g.name, ratio, width, g.width, accuracy, dense - accuracy))
                bar.update()
    return pd.DataFrame(rows, columns=["group", "ratio", "width", "full_width", "accuracy", "drop"])
