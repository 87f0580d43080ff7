"""`python -m slimlib widths`: the table equals the plan, weights come from files that hold no code, errors name the remedy."""

import builtins
import random
import re
import warnings

import pytest
import torch
from safetensors.torch import save_file

import slimlib
from slimlib import libraries, models, storage
from slimlib.__main__ import main
from slimlib.errors import SlimlibError
from slimlib.rules import RULES
from slimlib.widths_command import NEED_DATA


@pytest.fixture
def vgg(tmp_path):
    """(weights file, network) of a small VGG whose spectra are unlike those of fresh weights."""
    torch.manual_seed(3)
    model = models.vgg_small().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 4:
                p.add_(p.std()).mul_(torch.linspace(1, 5, len(p)).view(-1, 1, 1, 1))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt", model


def rows(printed: str) -> dict[str, tuple[int, int, float]]:
    """layer -> (full, kept, fraction) as printed."""
    found = re.findall(r"^(\S+) +(\d+) +(\d+) +(\d\.\d{3})\b", printed, flags=re.MULTILINE)
    return {layer: (int(full), int(kept), float(fraction)) for layer, full, kept, fraction in found}


def table_of(plan) -> dict[str, tuple[int, int, float]]:
    return {n: (plan.full_widths[n], w, round(w / plan.full_widths[n], 3)) for n, w in plan.widths.items()}


def test_the_table_is_the_plan_of_the_given_weights(vgg, tmp_path, capsys):
    file, model = vgg
    want = slimlib.plan_widths(model, torch.zeros(1, 1, 28, 28), keep_macs=0.4)
    assert main(["widths", "vgg_small", "--keep-macs", "0.4", "--weights", str(file), "-o", str(tmp_path / "plan.json")]) == 0
    out, err = capsys.readouterr()
    assert rows(out) == table_of(want) and "untrained" not in err
    assert f"MACs {want.macs:,} of {want.full_macs:,}" in out and f"parameters {want.params:,}" in out
    assert "left whole: 1 layer\n" in out and "width of the model's output: fc" in out
    plan = slimlib.WidthPlan.load(tmp_path / "plan.json")
    assert plan == want and slimlib.prune(model, plan)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert main(["widths", "vgg_small", "--keep-macs", "0.4"]) == 0
    out, err = capsys.readouterr()
    assert "widths of an untrained network" in err and rows(out) != table_of(want), "the file made no difference"


@pytest.mark.parametrize("form", ["safetensors", "plain", "under state_dict", "DataParallel, without counters",
                                  "DataParallel, safetensors"])
def test_weights_are_read_in_the_forms_that_people_have(vgg, tmp_path, form):
    _, model = vgg
    state, file = model.state_dict(), tmp_path / ("w.safetensors" if "safetensors" in form else "w.pth")
    if form == "safetensors":
        save_file(state, file)
    elif form == "DataParallel, safetensors":
        save_file({f"module.{k}": v for k, v in state.items()}, file)
    elif form == "plain":
        torch.save(state, file)
    elif form == "under state_dict":
        torch.save({"state_dict": state, "epoch": 3}, file)
    else:
        torch.save({"model": {f"module.{k}": v for k, v in state.items() if not k.endswith("tracked")}}, file)
    filled = storage.load_weights(models.vgg_small(), file).eval()
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(filled(x), model(x))


def test_weights_that_do_not_fit_are_named(vgg, tmp_path, capsys):
    _, model = vgg
    state = model.state_dict()
    state["extra.weight"], state["conv1.weight"] = torch.zeros(2), torch.zeros(16, 3, 3, 3)
    del state["bn2.bias"]
    torch.save(state, tmp_path / "wrong.pt")
    assert main(["widths", "vgg_small", "--keep-macs", "0.4", "--weights", str(tmp_path / "wrong.pt")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "wrong.pt' does not fit this Sequential" in err
    assert "1 entries missing from the file (bn2.bias)" in err and "1 entries not in the model (extra.weight)" in err
    assert "conv1.weight (16, 3, 3, 3) for (16, 1, 3, 3)" in err

    fresh = models.vgg_small()
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    with pytest.raises(slimlib.SlimlibError, match=r"bn2\.bias"):
        storage.load_weights(fresh, tmp_path / "wrong.pt")
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items()), "half a file must not be loaded"


class Code:
    """What a pickle with code in it looks like: it would print when loaded without weights_only."""

    def __reduce__(self):
        return builtins.print, ("executed",)


def test_files_with_code_damaged_files_and_other_files_are_refused(vgg, tmp_path, capsys):
    _, model = vgg
    torch.save({"w": Code()}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:20_000])
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "table.pth").write_bytes(b"epoch,loss\n1,0.5\n")
    (tmp_path / "words.pth").write_bytes(b"hello world")
    (tmp_path / "page.pth").write_bytes("<html>\u00fcber</html>".encode())
    torch.save({0: torch.zeros(1)}, tmp_path / "numbers.pt")
    refused = {"table.pth": "cannot be read", "words.pth": "cannot be read", "page.pth": "cannot be read",
               "numbers.pt": "holds no state dict", "code.pt": "cannot be read", "half.pt": "cannot be read",
               "half.safetensors": "cannot be read",
               "empty.pt": "cannot be read", "list.pt": "holds no state dict", "none.pt": "no such file"}
    for name, told in refused.items():
        assert main(["widths", "vgg_small", "--keep-macs", "0.4", "--weights", str(tmp_path / name)]) == 2, name
        out, err = capsys.readouterr()
        assert name in err and told in err and "Traceback" not in err and "executed" not in out + err


@pytest.mark.parametrize("form", ["zip.pt", "legacy.pt", "file.safetensors"])
def test_whatever_bytes_are_wrong_the_file_is_read_or_refused(tmp_path, form):
    """A reader of bytes may trip over them in any way."""
    state = dict(torch.nn.Linear(3, 2).state_dict())
    if form == "file.safetensors":
        save_file(state, tmp_path / form)
    else:
        torch.save(state, tmp_path / form, _use_new_zipfile_serialization=form == "zip.pt")
    good, draw, refused = (tmp_path / form).read_bytes(), random.Random(0), 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(draw.choice((1, 2, 20))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (tmp_path / form).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                storage.read_weights(tmp_path / form)
            except SlimlibError as error:
                refused += form in str(error)
    assert refused > 20


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:resnet10t"])
def test_networks_of_the_libraries_by_name(name, capsys):
    assert main(["widths", name, "--keep-params", "0.6", "--input", "3,32,32", "--classes", "7"]) == 0
    out, _ = capsys.readouterr()
    torch.manual_seed(0)
    model = models.build(name, 7, 3).eval()
    full = {n: m.weight.shape[0] for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    found = rows(out)
    assert found and all(full[layer] == width for layer, (width, _, _) in found.items())
    params = int(re.search(r"^parameters ([\d,]+) of", out, flags=re.MULTILINE)[1].replace(",", ""))
    assert params <= 0.6 * sum(p.numel() for p in model.parameters())
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_untrained_widths_follow_from_the_seed_alone(capsys):
    def answer(seed: int) -> str:
        torch.rand(1)  # wherever the caller's own numbers have come to
        assert main(["widths", "lenet5", "--threshold", "0.9", "--seed", str(seed)]) == 0
        return capsys.readouterr().out

    assert answer(0) == answer(0) != answer(1)


def test_a_folder_that_is_not_there_is_said_before_the_work(tmp_path, capsys):
    assert main(["widths", "lenet5", "--keep-macs", "0.5", "-o", str(tmp_path / "none" / "plan.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "--output=" in err and "there is no folder" in err and "make it first" in err


def test_usual_inputs():
    assert models.usual_shape("torchvision:resnet50") == ((3, 224, 224), 1000)
    assert models.usual_shape("torchvision:inception_v3")[0] == (3, 299, 299)
    assert models.usual_shape("timm:vit_small_patch16_384")[0] == (3, 384, 384)
    for name in models.NAMES:
        shape, classes = models.usual_shape(name)
        if name.startswith(("resnet110", "resnet5", "resnet4")):
            continue  # the same code at other depths
        assert models.build(name, classes, shape[0]).eval()(torch.zeros(1, *shape)).shape == (1, classes)
    assert models.build("timm:resnet10t", 5, 1).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 5)


def test_every_rule_without_data_can_be_asked_for(vgg, capsys):
    """`hand` has published widths for larger networks only: with VGG-16 below, here it says which."""
    file, model = vgg
    extra, how = {"tilt": ["--power", "0.5"]}, {"tilt": {"power": 0.5}}
    x = torch.zeros(1, 1, 28, 28)
    layout = slimlib.trace(model, x)
    for rule in RULES:
        code = main(["widths", "vgg_small", "--keep-macs", "0.4", "--weights", str(file), "--rule", rule, *extra.get(rule, [])])
        out, err = capsys.readouterr()
        if rule in NEED_DATA:
            assert code == 2 and f"--rule {rule} needs data" in err and NEED_DATA[rule] in err
        elif rule == "hand":
            assert code == 2 and "published must be given" in err
        else:
            want = slimlib.width_path(model, x, rule=rule, layout=layout, **how.get(rule, {})).plan(keep_macs=0.4)
            assert code == 0 and rows(out) == table_of(want), rule
            assert f"rule {rule}, coupling inner" in out
    assert main(["widths", "vgg_small", "--keep-macs", "0.4", "--rule", "pcaa"]) == 2
    assert "rule='pcaa'" in capsys.readouterr().err


def test_options_reach_the_plan(vgg, capsys):
    file, model = vgg
    x, given = torch.zeros(1, 1, 28, 28), ["widths", "vgg_small", "--weights", str(file)]
    layout = slimlib.trace(model, x)
    for options, how, told in (
        (["--threshold", "0.8", "--uncentred"], {"threshold": 0.8, "center": False}, "center"),
        (["--keep-macs", "0.4", "--round-to", "8"], {"keep_macs": 0.4, "round_to": 8}, "round_to"),
        (["--keep-macs", "0.4", "--min-width", "16"], {"keep_macs": 0.4, "min_width": 16}, "min_width"),
        (["--keep-params", "0.3", "--rule", "uniform", "--fill"], {"keep_params": 0.3, "rule": "uniform", "fill": True}, "fill"),
        (["--keep-macs", "0.4", "--rule", "random", "--seed", "5"], {"keep_macs": 0.4, "rule": "random", "seed": 5}, "seed"),
    ):
        assert main([*given, *options]) == 0
        without = {k: v for k, v in how.items() if k != told}
        want, other = (table_of(slimlib.plan_widths(model, x, layout=layout, **h)) for h in (how, without))
        assert rows(capsys.readouterr().out) == want
        assert want != other, f"{told} would not be missed"
    assert main(["widths", "vgg16", "--keep-macs", "0.6", "--rule", "hand", "--published", "vgg16-A"]) == 0
    assert rows(capsys.readouterr().out)["conv1"][1] <= 32


def test_rank_bound_and_reasons_are_said(capsys):
    """conv1 has 16 filters of 9 weights, so at most 8 centred components; the layers of a residual stream share one width."""
    assert main(["widths", "vgg_small", "--keep-macs", "0.99"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^conv1 +16 +8 +0.500  by rank at most 8$", out, flags=re.MULTILINE)
    assert "note: keep_macs=0.99: rule 'pca' reaches its widest plan" in err and "conv1 at most 8 of 16" in err
    assert main(["widths", "vgg_small", "--keep-macs", "0.95", "--fill"]) == 0
    out, err = capsys.readouterr()
    kept = int(re.search(r"^conv1 +16 +(\d+) .*  by rank at most 8, filled beyond$", out, flags=re.MULTILINE)[1])
    assert kept > 8 and re.search(r"widest plan at 0\.9[01].*filled beyond it, to 0\.94", err)
    assert main(["widths", "resnet_small", "--threshold", "0.9"]) == 0
    slimmed, _, whole = capsys.readouterr().out.partition("left whole: 10 layers\n")
    assert set(rows(slimmed)) == {f"layer{i}.{j}.conv1" for i in (1, 2, 3) for j in (0, 1)}
    assert "shares its width with 2 other layers" in whole and "layer2.0.shortcut.0" in whole
    assert "width of the model's output: linear" in whole


@pytest.mark.parametrize(("arguments", "told"), [
    (["nope", "--keep-macs", ".5"], "name='nope' is no network of slimlib"),
    (["cifar10/nope", "--keep-macs", ".5"], "cifar10/resnet20, cifar10/resnet56"),
    (["torchvision:resnet49", "--keep-macs", ".5"], "did you mean resnet"),
    (["timm:resnt18", "--keep-macs", ".5"], "did you mean resnet18"),
    (["torchvision:resnet18", "--keep-macs", ".5", "--input", "1,64,64"], "timm:resnet18"),
    (["lenet5", "--keep-macs", ".5", "--input", "1,28"], "--input '1,28'"),
    (["lenet5", "--keep-macs", ".5", "--input", "1,28,-1"], "channels, height and width are at least 1"),
    (["lenet5", "--keep-macs", ".5", "--input", "1,20,20"], "example_input of shape"),
    (["lenet5", "--keep-macs", ".5", "--classes", "0"], "--classes 0: at least 1"),
    (["lenet5", "--keep-macs", ".5", "--classes", "-3"], "--classes -3: at least 1"),
    (["cifar10/resnet20", "--keep-macs", ".5", "--classes", "100"], "--classes 100: the weights of cifar10/resnet20"),
    (["lenet5", "--keep-macs", ".5", "--rule", "random", "--seed", "-1"], "seed=-1 must be a whole number from 0"),
    (["lenet5", "--keep-macs", "1.5"], "keep_macs=1.5 must lie in (0, 1]"),
    (["lenet5", "--keep-macs", "0.0001"], "keep_macs=0.0001 cannot be reached"),
])
def test_what_cannot_be_asked_is_refused_with_the_remedy(arguments, told, capsys):
    assert main(["widths", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_help_says_how_widths_are_rounded(capsys):
    with pytest.raises(SystemExit):
        main(["widths", "--help"])
    assert "rounded up to multiples of N, or whole" in " ".join(capsys.readouterr().out.split())


def test_timm_is_optional(monkeypatch):
    real = builtins.__import__

    def without_timm(name, *rest):
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(slimlib.SlimlibError, match="needs timm, which is not installed: pip install timm"):
        libraries.build("timm:resnet18", 10, 3)
