"""PCA of filters against plain definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slimlib
from slimlib import models, spectrum
from slimlib.filters import in_float64
from slimlib.responses import response_spectra
from slimlib.spectrum import eigenvalues


@pytest.mark.parametrize(("n", "p"), [(5, 40), (40, 5), (8, 8), (1, 9), (300, 310)])  # 300: more than one block
@pytest.mark.parametrize("center", [True, False])
def test_eigenvalues_equal_numpy_covariance(n, p, center):
    w = np.random.default_rng(n * p).normal(size=(n, p))
    got = spectrum.eigenvalues([torch.from_numpy(w)], center)
    covariance = np.atleast_2d(np.cov(w)) if center else w @ w.T / p
    want = np.clip(np.linalg.eigvalsh(covariance)[::-1], 0, None)
    assert got.shape == (n,) and got.dtype == np.float64
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert (np.diff(got) <= 1e-15).all()


@pytest.mark.parametrize("center", [True, False])
def test_matrices_of_one_size_together_give_what_each_gives_alone(center):
    """The way taken on a GPU, where one call solves all layers of a size."""
    generator = np.random.default_rng(0)
    rows = [[torch.from_numpy(generator.normal(size=shape)) for shape in of]
            for of in ([(9, 30)], [(12, 9)], [(9, 12), (9, 5)], [(30, 9)], [(4, 4)])]
    together = spectrum._solved_by_size(spectrum.scatter(of, center) for of in rows)
    for of, values in zip(rows, together, strict=True):
        np.testing.assert_allclose(values, spectrum.eigenvalues(of, center), rtol=1e-12, atol=1e-15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_widths_on_a_gpu_are_those_on_the_cpu():
    torch.manual_seed(0)
    model = models.build("resnet20", 10, 3)
    on_cpu = slimlib.plan_widths(model, torch.zeros(1, 3, 32, 32), keep_macs=0.5)
    on_gpu = slimlib.plan_widths(model.cuda(), torch.zeros(1, 3, 32, 32, device="cuda"), keep_macs=0.5)
    assert on_gpu.widths == on_cpu.widths


def test_rank_bound_is_exact():
    """n filters of p weights have at most p - 1 centred components, p uncentred, at any threshold."""
    rows = torch.randn(64, 27, dtype=torch.float64)
    values = {center: spectrum.eigenvalues([rows], center) for center in (True, False)}
    assert spectrum.widths_at(values, 1.0) == {True: 26, False: 27}


@pytest.mark.parametrize("seed", range(5))
def test_beyond_the_rank_there_is_no_variance_at_all(seed):
    """Not even that of rounding, which would count as a component where costs are weighed against it."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(64, p, dtype=torch.float64, generator=generator) for p in (9, 20)]
    values = spectrum.eigenvalues(rows)
    assert (values[:27] > 1e-3).all() and (values[27:] == 0).all(), "each layer loses one component to centring"


def test_joint_scatters_add():
    a, b = torch.randn(6, 20, dtype=torch.float64), torch.randn(6, 30, dtype=torch.float64)
    scatter = sum(np.cov(x.numpy()) * (x.shape[1] - 1) for x in (a, b))
    np.testing.assert_allclose(spectrum.eigenvalues([a, b]), np.linalg.eigvalsh(scatter / 48)[::-1], atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_width_is_the_least_that_reaches_the_threshold(values, threshold):
    values = np.sort(values)[::-1]
    width, r = spectrum.widths_at({"a": values}, threshold)["a"], np.cumsum(values) / np.sum(values)
    assert 1 <= width <= len(values)
    assert width == len(values) or r[width - 1] >= threshold * (1 - 1e-11)
    assert width == 1 or r[width - 2] < threshold


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60), st.integers(0, 20))
def test_contributions_ascend_to_one_in_the_last_digit_too(values, zeros):
    r = spectrum.cumulative(np.r_[np.sort(values)[::-1], np.zeros(zeros)])  # zeros: components beyond the rank
    assert (np.diff(r) >= 0).all() and r[0] > 0 and r[-1] == 1.0


def test_spectra_of_a_model_layer_by_layer(chain):
    model, x = chain
    found = slimlib.spectra(model, x)
    assert list(found) == ["0", "4", "9"]
    for name, values in found.items():
        rows = model.get_submodule(name).weight.detach().double().flatten(1).numpy()
        np.testing.assert_allclose(values, np.clip(np.linalg.eigvalsh(np.cov(rows))[::-1], 0, None), atol=1e-14)


def test_a_folded_spectrum_is_that_of_filters_times_gamma_over_sigma(chain):
    model, x = chain
    with torch.no_grad():
        model[1].running_var.copy_(torch.linspace(1e-6, 1e-4, 8))  # of the size of eps, which is a part of sigma
    found = slimlib.spectra(model, x, folded=True)
    for name, norm in (("0", model[1]), ("4", model[5]), ("9", None)):  # no BatchNorm behind the last
        rows = model.get_submodule(name).weight.detach().double().flatten(1).numpy()
        if norm is not None:
            scale = norm.weight.detach().double().numpy() / np.sqrt(norm.running_var.double().numpy() + norm.eps)
            rows = rows * scale[:, None]
        want = np.clip(np.linalg.eigvalsh(np.cov(rows))[::-1], 0, None)
        np.testing.assert_allclose(found[name], want, rtol=1e-9, atol=1e-12 * want[0])


def test_numbers_of_a_device_without_double_precision_go_to_the_cpu_first():
    """Apple's GPU is played by a tensor that says it lies there, and cannot be doubled before it is copied."""
    class Far(torch.Tensor):
        device = torch.device("mps")

        def double(self):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    values = torch.rand(3, 2).as_subclass(Far)
    found = in_float64(values)
    assert found.dtype == torch.float64 and torch.equal(found, values.cpu().double())


def test_without_any_norm_a_folded_spectrum_is_refused():
    model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3)), torch.zeros(1, 3, 8, 8)
    for how in ({"rule": "pca_folded"}, {"rule": "pca_budgeted", "folded": True}):
        with pytest.raises(slimlib.SlimlibError, match=r"a folded spectrum needs a BatchNorm .* use the plain one"):
            slimlib.plan_widths(model, x, keep_macs=0.5, **how)


def test_filters_of_a_transposed_convolution_are_those_of_its_outputs():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 6, 2), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3))
    rows = model[0].weight.detach().double().transpose(0, 1).flatten(1).numpy()  # stored (in, out, k, k)
    found = slimlib.spectra(model, torch.zeros(1, 3, 8, 8))["0"]
    np.testing.assert_allclose(found, np.clip(np.linalg.eigvalsh(np.cov(rows))[::-1], 0, None), atol=1e-14)


def test_spectra_of_responses_are_those_of_all_outputs(network):
    """Covariances over images and positions of what each layer itself gives, those of a joint group added."""
    _, model, x = network
    layout, images, seen = slimlib.trace(model, x), torch.randn(25, 3, 16, 16), {}
    groups = layout.slimmable("joint")
    found = response_spectra(model, groups, images, batch_size=10)
    for m in [m for g in groups for m in g.writers()]:
        keep = lambda module, args, out, name=m.module: seen.update({name: out.detach().double()})  # noqa: E731
        model.get_submodule(m.module).register_forward_hook(keep)
    model(images)
    for g in groups:
        total = np.zeros((g.width, g.width))
        for m in g.writers():
            covariance = np.cov(seen[m.module].transpose(0, 1).flatten(1).numpy(), bias=True)
            total[np.ix_(m.channels, m.channels)] += covariance[np.ix_(m.positions[:, 0], m.positions[:, 0])]
        np.testing.assert_allclose(found[g.name], np.linalg.eigvalsh(total)[::-1], rtol=1e-4, atol=1e-6 * np.trace(total))


def test_a_layer_without_variance_is_refused():
    with pytest.raises(slimlib.SlimlibError, match="no variance"):
        spectrum.cumulative(np.zeros(4))


def test_threshold_range_is_named():
    with pytest.raises(slimlib.SlimlibError, match=r"threshold=1\.5"):
        slimlib.widths_at({"a": np.ones(3)}, 1.5)


def test_pretrained_resnet56_gives_the_widths_of_a_plain_eigendecomposition(real_file):
    real_file("weights/resnet56-4bfd9763.th")
    model = slimlib.models.pretrained("cifar10/resnet56")
    for threshold in (0.5, 0.8, 0.95):
        plan = slimlib.plan_widths(model, torch.zeros(1, 3, 32, 32), threshold=threshold)
        assert len(plan.widths) == 27
        for name, width in plan.widths.items():
            rows = model.get_submodule(name).weight.detach().numpy().astype(np.float64)
            rows = rows.reshape(len(rows), -1)
            rows -= rows.mean(1, keepdims=True)
            values = np.linalg.eigh(rows @ rows.T)[0][::-1]
            share = np.cumsum(values) / values.sum()
            assert width == 1 + np.flatnonzero(share >= threshold * (1 - 1e-12))[0], name


@pytest.mark.parametrize("values", [[1.0, 2.0, 7.0], [7.0, 2.0, -1e-9], [7.0, float("nan"), 1.0], [], [[7.0, 2.0], [1.0, 0.0]]])
def test_what_is_no_spectrum_in_descending_order_is_refused(values):
    """Those of numpy.linalg.eigvalsh ascend: taken as they are they would make layers too wide."""
    values, x = np.array(values), torch.zeros(1, 1, 8, 8)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(3, 2, 3))
    for ask in (lambda: spectrum.cumulative(values), lambda: slimlib.widths_at({"a": values}, 0.7)):
        with pytest.raises(slimlib.SlimlibError, match=r"^spectra: the eigenvalues of (a|a layer) must be .* descending"):
            ask()
    if values.shape == (3,):
        for rule in ("pca", "pca_budgeted"):
            with pytest.raises(slimlib.SlimlibError, match=r"^spectra: the eigenvalues of 0 must be"):
                slimlib.plan_widths(model, x, keep_macs=0.5, rule=rule, spectra={"0": values})


@pytest.mark.parametrize("center", [True, False])
def test_eigenvalues_are_of_double_precision_whatever_the_rows_are(center):
    rows = [torch.nn.Parameter(torch.randn(6, 9, generator=torch.Generator().manual_seed(0)))]
    np.testing.assert_array_equal(eigenvalues(rows, center), eigenvalues([rows[0].detach().double()], center))
