"""Numbers, commands and links of the pages without code: what the library, the claims and the records say stands on them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import slimlib
from slimlib import study
from slimlib.__main__ import _parser
from slimlib.notebooks import declared_parameters
from slimlib.rules import RULES
from slimlib.run_command import assignment
from slimlib.spectrum import cumulative, eigenvalues, scatter, width_at
from slimlib.study.claims import load_claims
from slimlib.study.deciding import decide
from slimlib.study.names import plain_name

ROOT = Path(__file__).resolve().parents[1]


def page(name: str) -> str:
    return (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """The text below a heading of the second level, up to the next."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page(name), flags=re.MULTILINE | re.DOTALL)
    return text


def tables(text: str) -> list[list[list[str]]]:
    """Rows of cells, head first, without the line below the head."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines() if "---" not in row]
            for table in found]


# ---- the method: a layer by hand


@pytest.fixture(scope="module")
def by_hand():
    return section("method", "A layer by hand")


@pytest.fixture(scope="module")
def told(by_hand):
    """The same on one line, so that a sentence is found wherever it is broken."""
    return " ".join(by_hand.split())


def matrices(text: str) -> list[torch.Tensor]:
    found = re.findall(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", text, flags=re.DOTALL)
    return [torch.tensor([[float(x) for x in row.split("&")] for row in m.split(r"\\")], dtype=torch.float64) for m in found]


def test_the_matrices_by_hand(by_hand, told):
    rows, centred, covariance, _ = matrices(by_hand)
    assert torch.equal(centred, rows - rows.mean(1, keepdim=True))
    means = re.search(r"means of the rows are (\d), (\d) and (\d)", told).groups()
    assert [float(mean) for mean in means] == rows.mean(1).tolist()
    assert torch.equal(scatter([rows]).matrix.tril(), covariance.tril()) and torch.equal(covariance, covariance.T)
    assert torch.equal(2 * centred[0], centred[1:].sum(0)), "half the sum of the other two"
    assert scatter([rows]).rank == 2, "and another layer of this shape would end there"


def test_the_characteristic_polynomial_by_hand(by_hand, told):
    rows, _, covariance, _ = matrices(by_hand)
    trace, minors = map(float, re.search(r"\\lambda\^3 - (\d+) \\lambda\^2 \+ (\d+) \\lambda", told).groups())
    assert np.allclose(np.poly(covariance.numpy()), [1, -trace, minors, 0])
    assert np.allclose(np.roots([1, -trace, minors, 0]), eigenvalues([rows]), atol=1e-9)
    for sum_told, parts in ((trace, r"trace, \$([\d +]+) = (\d+)\$"), (minors, r"diagonal, \$([\d +]+) = (\d+)\$")):
        summands, total = re.search(parts, told).groups()
        assert sum(map(int, summands.split("+"))) == int(total) == sum_told
    shown = re.search(r"diagonal, \$([\d +]+) =", told).group(1)
    minors = [float(torch.det(covariance[list(at)][:, list(at)])) for at in ((0, 1), (0, 2), (1, 2))]
    assert np.allclose(minors, [int(x) for x in shown.split("+")])


def test_spectrum_and_widths_by_hand(by_hand):
    rows, spectrum, widths = matrices(by_hand)[0], *tables(by_hand)
    values = eigenvalues([rows])
    shown = np.array([[float(cell) for cell in row] for row in spectrum[1:]])
    assert np.allclose(shown[:, 1], values) and np.allclose(shown[:, 2], np.cumsum(values))
    assert [row[3] for row in spectrum[1:]] == [f"{r:.3f}" for r in cumulative(values)]
    read_off = {float(t): int(w) for t, w in zip(*(row[1:] for row in widths), strict=True)}
    assert read_off == {t: width_at(values, t) for t in read_off}

    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(rows[:, :, None, None])
    for t, width in read_off.items():
        assert slimlib.plan_widths(model, torch.zeros(1, 3, 2, 2), threshold=t).widths == {"0": width}


def test_two_filters_by_hand(by_hand, told):
    rows = matrices(by_hand)[0]
    twice, s = eigenvalues([rows[[1, 1]]]), float(rows[1].var())
    assert np.allclose(twice, [2 * s, 0], atol=1e-12) and width_at(twice, 1.0) == 1
    assert torch.allclose(scatter([rows[[1, 1]]]).matrix.tril(), s * matrices(by_hand)[3].tril())

    sentence = r"threshold of ([\d.]+) takes them for one from a correlation of ([\d.]+) on"
    threshold, rho = map(float, re.search(sentence, told).groups())
    a, b = torch.tensor([[1.0, 0, -1], [1, -2, 1]], dtype=torch.float64) / torch.tensor([[2.0], [6]]).sqrt()
    for sign in (1, -1):
        for correlation, width in ((rho, 1), (rho - 0.01, 2)):
            alike = torch.stack([a, sign * correlation * a + (1 - correlation**2) ** 0.5 * b])
            values = eigenvalues([alike])
            assert np.allclose(values, [(1 + correlation) / 2, (1 - correlation) / 2]), "of a variance of a half"
            assert width_at(values, threshold) == width


def test_what_is_said_of_depthwise_networks():
    text = section("method", "What the number of positions allows")
    assert "MobileNetV2 has about a quarter of its MACs" in " ".join(text.split())
    rows = json.loads((ROOT / "book" / "records" / "architectures.json").read_text())
    (share,) = [row["pca_macs"] for row in rows if row["architecture"] == "torchvision:mobilenet_v2"]
    assert abs(share - 0.25) < 0.01
    model = nn.Sequential(nn.Conv2d(8, 48, 1), nn.ReLU(), nn.Conv2d(48, 48, 3, groups=48), nn.Conv2d(48, 8, 1))
    plan = slimlib.plan_widths(model.eval(), torch.zeros(1, 8, 5, 5), threshold=1.0, coupling="joint")
    assert plan.rank_bound == {"0": 8 + 7}, "c + 7"


def test_the_table_of_rules_has_each_by_both_its_names():
    rules = {code: name for code, name in re.findall(r"^[|] `(\w+)`(?:, [*](.+?)[*])? [|]", page("method"), flags=re.MULTILINE)}
    assert rules.keys() == RULES.keys()
    assert {code: name or code for code, name in rules.items()} == {code: plain_name(code) for code in RULES}
    assert f"*{plain_name('pca_uncentred')}*" in page("method")


# ---- a better rule: an allocation by hand


def test_the_allocation_by_hand_is_the_best_in_whole_units():
    source = json.loads((ROOT / "notebooks" / "10_a_better_rule.ipynb").read_text(encoding="utf-8"))["cells"]
    (text,) = [told for cell in source if "*By hand.*" in (told := " ".join("".join(cell["source"]).split()))]
    n, *scores = map(float, re.search(r"Two layers of (\d+) units have \$V/T\$ = ([\d.]+) and ([\d.]+)\.", text).groups())

    def loss(*widths: int) -> float:
        return sum(score * (n / width - 1) for score, width in zip(scores, widths, strict=True))

    def best(price: int, spend: int) -> tuple[int, int]:
        every = [(a, b) for a in range(1, int(n) + 1) for b in range(1, int(n) + 1) if price * a + b <= spend]
        return min(every, key=lambda widths: loss(*widths))

    first, second, lost = re.search(r"so (\d+) and (\d+) units\. The loss is then .*? = ([\d.]+)\$", text).groups()
    assert best(1, int(n)) == (int(first), int(second)) and loss(int(first), int(second)) == pytest.approx(float(lost))
    assert loss(n / 2, n / 2) == pytest.approx(float(re.search(r"equal widths, 10 and 10, lose ([\d.]+)\.", text)[1]))
    told = re.search(r"four times as much: .*? With (\d+) to spend that is (\d+) and (\d+) units", text).groups()
    spend, *dear = map(int, told)
    assert best(4, spend) == tuple(dear) and dear[0] < dear[1] and scores[0] > scores[1]


# ---- the method: exercises


def test_what_scales_do_to_spectra_in_the_exercises():
    torch.manual_seed(0)
    rows, a = torch.randn(4, 9, dtype=torch.float64), torch.tensor([1.0, 1, 5, 1], dtype=torch.float64)
    before, after = scatter([rows]).matrix, scatter([rows * a[:, None]]).matrix
    assert torch.allclose(after.tril(), (before * a[:, None] * a).tril())
    assert cumulative(eigenvalues([rows * a[:, None] ** 9]))[0] > 0.999, "a single component, it seems"
    sizes = (3, 2, 4)
    members = [torch.randn(20, p, dtype=torch.float64) for p in sizes]
    assert scatter(members).rank == sum(sizes) - len(sizes) == (eigenvalues(members) > 1e-9).sum()


def test_what_the_free_scale_of_a_relu_moves():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
                          nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for norm in (model[1], model[4], model[7]):
            norm.weight.uniform_(0.5, 2), norm.bias.normal_()
    layout = slimlib.trace(model, x)

    def found():
        v, t = slimlib.sampling.variances(model, layout, layout.slimmable())
        folded = model[3].weight.flatten(1) * (model[4].weight / (model[4].running_var + model[4].eps).sqrt())[:, None]
        return [*slimlib.spectra(model, x).values(), eigenvalues([folded.double()]), *(v / t)], model(x)

    with torch.no_grad():
        (values, output) = found()
        model[4].weight[1] *= 3
        model[4].bias[1] *= 3
        model[6].weight[:, 1] /= 3
        (moved, same) = found()
    assert torch.allclose(output, same, atol=1e-5)
    stays = [np.allclose(one, other, rtol=1e-5) for one, other in zip(values, moved, strict=True)]
    # spectra of the three layers; of the folded second one; V/T of the three layers
    assert stays == [True, True, False, False, False, True, True]


# ---- notation: margins, and the order of the rules


VERDICTS = "How a verdict is reached"


def test_margins_and_limits_are_those_of_the_claims():
    words, steps = (" ".join(text.split()) for text in (page("notation"), section("notation", VERDICTS)))
    points, follows = re.search(r"([\d.]+) points of accuracy; of a correlation[^.]*?, ([\d.]+\d)", words).groups()
    (seeds,), (layers,) = (re.findall(pattern, steps) for pattern in (r"Fewer than (\d+) seeds", r"fewer than (\d+) layers"))
    assert re.search(r"the (\d+) % interval", steps).group(1) == "95" and "Holm's $p$ at most .05" in steps
    for claim in load_claims().values():
        assert claim.margin == (float(points) / 100 if claim.kind == "paired" else float(follows)), claim.id
        assert (claim.level, claim.min_seeds, claim.min_groups) == (0.95, int(seeds), int(layers))


def test_examples_of_verdicts_are_judged_as_told():
    (table,) = tables(section("notation", VERDICTS))
    claim = next(claim for claim in load_claims().values() if claim.kind == "paired")
    for interval, p, found, _ in table[1:]:
        low, high = (float(x.replace("−", "-")) / 100 for x in interval.split(" to "))
        row = {"low": low, "high": high, "p": float(p), "n": claim.min_seeds}
        assert decide(claim, [row]) == [(float(p), found)]
        assert decide(claim, [{**row, "n": claim.min_seeds - 1}])[0][1] == "inconclusive"
    assert {row[2] for row in table[1:]} == {"supported", "not supported", "inconclusive"}


def test_the_networks_are_those_of_the_library():
    (table,) = tables(section("notation", "Networks and data"))
    profiles = [study.load_profile(name) for name in ("quick", "laptop", "paper")]
    wanted = {run.model.removesuffix(":pretrained") for profile in profiles for run in profile.runs()}
    assert {row[0] for row in table[1:]} == {study.names.model_name(model) for model in wanted}
    for model in wanted:
        (row,) = [row for row in table if row[0] == study.names.model_name(model)]
        shape, classes = slimlib.models.usual_shape(model)
        network, example = slimlib.models.build(model, classes, shape[0]), torch.zeros(1, *shape)
        plan = slimlib.plan_widths(network, example, threshold=1.0)
        counts = [[1, *map(int, part.split(" × "))][-2:] for part in row[2].split(", ")]  # "3 × 16" is three of 16
        widths = [width for count, width in counts for _ in range(count)]
        assert row[1] == " × ".join(map(str, shape)) and widths == list(plan.full_widths.values()), model
        assert row[3:] == [f"{plan.full_params:,}", f"{plan.full_macs:,}"], model
    lenet = slimlib.models.lenet5()
    assert [name for name, layer in lenet.named_children() if isinstance(layer, nn.ReLU)] == ["relu1"]
    assert [*lenet._modules].index("relu1") == [*lenet._modules].index("fc1") + 1, "a single ReLU, behind fc1"
    assert slimlib.Distill and not [run for profile in profiles for run in profile.runs() if run.distill and (
        run.distill.hint_weight or run.distill.attention_weight)], "not tested in this book"


# ---- running again: a record, read


def test_the_record_that_is_shown_can_be_read():
    text = section("rerun", "Claims, records, code")
    paths = set(re.findall(r"records/[\w-]+/[0-9a-f]{12}\.json", text))
    assert len(paths) == 1, "one record, by one path"
    record = json.loads((ROOT / "book" / paths.pop()).read_text(encoding="utf-8"))
    fields = {name for row in tables(text)[0][1:] for name in re.findall(r"`(\w+)`", row[0])}
    assert fields <= set(record) and {"run", "metrics", "cost", "widths", "provenance"} <= fields
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(code, "rerun.md", "exec"), names)
    assert len(names["frame"]) >= 800 and record["key"] in set(names["frame"]["key"])


# ---- teaching: commands, times, links


def commands(name: str) -> list[str]:
    """Command lines of slimlib in code blocks and in backticks."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page(name), flags=re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = [" ".join(text.split()) for text in re.findall(r"`(python -m slimlib[^`]*)`", page(name))]
    return [line for line in [*lines, *inline] if line.startswith("python -m slimlib")]


@pytest.mark.parametrize("line", commands("teach"))
def test_commands_of_the_teaching_plan_are_understood(line):
    arguments = _parser().parse_args(shlex.split(line)[3:])
    if arguments.command == "run":
        declared = declared_parameters(ROOT / "notebooks" / f"{arguments.notebook}.ipynb")
        assert set(dict(map(assignment, arguments.parameter))) <= set(declared)


def test_minutes_of_the_commands_cover_the_training_that_the_profile_estimates():
    quick = study.load_profile("quick")
    like = {(run.model, run.stage): seconds for run, seconds in quick.estimates().items()}
    minutes = {row[0].strip("`"): float(row[1].split()[0]) for row in tables(section("teach", "Commands and minutes"))[0][1:]}
    trained = {}
    for command in minutes:
        words = shlex.split(command)
        given = dict(assignment(word) for word in words if "=" in word)
        if "04_pruning" in words and "seed" in given:
            runs = quick.runs("pruning", seeds=[given["seed"]], model=given["models"])
            trained[command] = sum(like[run.model, run.stage] for run in study.runs.with_needs(runs))
    assert len(trained) == 1
    for command, seconds in trained.items():
        assert seconds / 60 <= minutes[command] <= seconds / 60 + 1.5, command
    told = {name: "ten to twelve minutes" in (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "book/rerun.md")}
    assert all(told.values()) and minutes["make book"] == 10


def test_homework_on_three_filters_is_answered_rightly():
    text = " ".join(page("teach").split())
    (question,) = re.findall(r"\(iii\) a layer has the filters (.*?):", text)
    (answer,) = re.findall(r"\(iii\) Centred: (.*?), all multiples", text)
    rows, centred = (torch.tensor([[float(x) for x in row.split(",")] for row in re.findall(r"\(([-\d, ]+)\)", vectors)]).double()
                     for vectors in (question, answer))
    assert torch.equal(centred, rows - rows.mean(1, keepdim=True))
    values, found = eigenvalues([rows]), re.search(r"one eigenvalue above 0, it is (\d), and both widths are (\d)", text)
    assert np.allclose(values, [float(found[1]), 0, 0], atol=1e-12)
    thresholds = re.search(r"widths at thresholds of ([\d.]+) and ([\d.]+\d)", text).groups()
    assert [width_at(values, float(t)) for t in thresholds] == [int(found[2])] * 2


def test_the_power_of_the_t_test_in_the_homework_is_that_of_the_noncentral_t():
    text = " ".join(page("teach").split())
    example = r"With \$s = ([\d.]+)\$ and \$\\delta = ([\d.]+)\$ points the formula asks for three seeds"
    s, delta = map(float, re.search(example, text).groups())
    assert np.ceil(8 * (s / delta) ** 2) == 3
    told = re.search(r"three seeds have a power of (\d+) %, five of (\d+) %, and six of (\d+) %", text).groups()
    for n, percent in zip((3, 5, 6), told, strict=True):
        limit, shift = stats.t.ppf(0.975, n - 1), delta / s * n**0.5
        power = stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift)
        assert round(100 * power) == int(percent)


def test_exercises_named_in_the_teaching_plan_are_those_of_quick_pages():
    quick = re.findall(r"results/quick/([\w]+)", (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    sources = "".join((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8") for name in quick)
    labels = re.findall(r":label: ([\w-]+)", sources)
    named = re.findall(r"\{ref\}`(?:[^`<]*<)?([\w-]+)>?`", page("teach"))
    assert len(named) >= 8 and set(named) <= set(labels)
