"""Distillation losses against plain NumPy."""

import numpy as np
import torch

from slimlib.distillation import attention_loss, kd_loss


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_kd_loss_equals_a_hand_written_reference():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(6, 10)), 3 * rng.normal(size=(6, 10))
    for temperature in (1.0, 4.0):
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        want = temperature**2 * (p * np.log(p / q)).sum(1).mean()
        got = kd_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
        np.testing.assert_allclose(float(got), want, rtol=1e-10)
    assert abs(float(kd_loss(torch.from_numpy(teacher), torch.from_numpy(teacher), 2.0))) < 1e-12


def test_attention_loss_equals_a_hand_written_reference():
    rng = np.random.default_rng(1)
    maps = []
    student, teacher = rng.normal(size=(3, 5, 4, 4)), rng.normal(size=(3, 9, 4, 4))
    for features in (student, teacher):
        flat = (features**2).mean(1).reshape(3, -1)
        maps.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    want = ((maps[0] - maps[1]) ** 2).mean()
    got = attention_loss(torch.from_numpy(student), torch.from_numpy(teacher))
    np.testing.assert_allclose(float(got), want, rtol=1e-9)
