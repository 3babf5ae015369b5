"""Muon: torch's update rule, with the orthogonalisation of a whole stack of matrices.

Axes: n matrices of one shape, r rows, c columns.
"""

import numpy as np
import pytest
import torch
from torch import nn

from mixonomy.optim.muon import Muon, orthogonalise

SHAPES = [(8, 8), (5, 12), (12, 5), (5, 12), (16, 3)]


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """The published iteration for one matrix, on its singular values (Keller Jordan 2024, "Muon")."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(matrix)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6), (1, 1, 9)], ids=str)
def test_orthogonalisation_is_the_published_polynomial_of_the_singular_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours = orthogonalise(matrices)
    for matrix, result in zip(matrices, ours, strict=True):
        expected = torch.from_numpy(newton_schulz(matrix.double().numpy()))
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 10, 40), (4, 40, 10), (4, 16, 24)], ids=str)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_orthogonalisation_brings_singular_values_near_one(shape, size):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * size
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6 and values.max() < 1.3


def test_orthogonalisation_of_zero_is_zero():
    assert torch.equal(orthogonalise(torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3))


def test_steps_are_torchs_up_to_its_bfloat16():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    optimizers = Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, start in zip(ours, theirs, before, strict=True):
        assert (a - b).norm() < 0.03 * (b - start).norm()
    for a, b in zip(ours, theirs, strict=True):
        buffers = (optimizer.state[p]["momentum_buffer"] for optimizer, p in zip(optimizers, (a, b), strict=True))
        torch.testing.assert_close(*buffers)


def test_step_follows_the_formula_written_out():
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(12, 5))
    start, buffer = parameter.detach().double().numpy().copy(), np.zeros((12, 5))
    optimizer = Muon([parameter], lr=0.02, weight_decay=0.1, momentum=0.9)
    for _ in range(3):
        parameter.grad = torch.randn(12, 5)
        gradient = parameter.grad.double().numpy()
        buffer = 0.9 * buffer + 0.1 * gradient
        look_ahead = 0.1 * gradient + 0.9 * buffer
        start = start * (1 - 0.02 * 0.1) - 0.02 * np.sqrt(12 / 5) * newton_schulz(look_ahead)
        optimizer.step()
    torch.testing.assert_close(parameter.detach().double(), torch.from_numpy(start), rtol=0, atol=1e-5)


def test_kernel_is_updated_as_the_matrix_that_it_is():
    torch.manual_seed(0)
    kernel, matrix = nn.Parameter(torch.ones(5, 3, 2, 2)), nn.Parameter(torch.ones(5, 12))
    kernel.grad = torch.randn(5, 3, 2, 2)
    matrix.grad = kernel.grad.flatten(1)
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())


def test_parameter_without_gradient_is_left_alone():
    a, b = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    a.grad = torch.eye(3)
    Muon([a, b], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(b, torch.ones(3, 3)) and not torch.equal(a, b)


def test_stacking_matrices_changes_no_ones_update():
    torch.manual_seed(0)
    matrices = torch.randn(3, 6, 9)
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalise(matrices), alone, rtol=0, atol=1e-5)
