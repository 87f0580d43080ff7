"""The sampling rule: known values, and Gaussian moments against simulation."""

import numpy as np
import pytest
import torch

import slimlib
from slimlib import sampling

V = [1.346, 1.897, 2.003, 5.157, 2.933, 3.190, 24.046, 24.903, 44.446]
T = [5.960, 7.996, 10.114, 19.761, 17.178, 16.547, 63.227, 59.875, 158.953]


def test_resnet20_variances_and_widths(real_file):
    real_file("weights/resnet20-12fca82f.th")
    model, x = slimlib.models.pretrained("cifar10/resnet20"), torch.zeros(1, 3, 32, 32)
    layout = slimlib.trace(model, x)
    v, t = sampling.variances(model, layout, layout.slimmable())
    np.testing.assert_allclose(v, V, atol=6e-4)
    np.testing.assert_allclose(t, T, atol=6e-4)
    macs = slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.35, layout=layout)
    params = slimlib.plan_widths(model, x, rule="neyman", keep_params=0.35, layout=layout)
    assert list(macs.widths.values()) == [5, 5, 5, 12, 9, 9, 30, 27, 22]
    assert list(params.widths.values()) == [14, 14, 13, 17, 12, 13, 21, 19, 16]


@pytest.mark.parametrize("name", ["Relu", "Silu", "Gelu", "Tanh"])
def test_activation_moments_equal_simulation(name):
    mean, std = np.array([-1.0, 0.0, 0.7]), np.array([0.5, 1.0, 2.0])
    z = torch.from_numpy(np.random.default_rng(0).normal(mean, std, (400_000, 3)))
    values = sampling.ACTIVATIONS[name](z).numpy()
    got = sampling.activation_moments(name, mean, std**2)
    np.testing.assert_allclose(got[0], values.mean(0), atol=0.01)
    np.testing.assert_allclose(got[1], values.var(0), rtol=0.02, atol=1e-3)


def test_what_cannot_be_followed_is_refused_by_name():
    from tests.conftest import Residual, lively_norms

    model, x = lively_norms(Residual()), torch.randn(64, 3, 16, 16)
    with pytest.raises(slimlib.SlimlibError, match="calibration"):
        slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.5, coupling="joint")
    plan = slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.5, coupling="joint", calibration=x)
    assert plan.keep_macs <= 0.5
