"""Baselines compute what they are named after."""

import pytest
import torch
from torch.nn import functional

from bench.baselines import BatchNorm, Copy, ModeNorm, Sklearn, compiler_missing, positions
from bench.cases import Case, Shape
from bench.inputs import make_inputs
from bench.layers import run_step
from bench.memory import peak_bytes, saved_bytes
from bench.ours import MixtureNorm
from bench.runner import trainable_input

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(6, 4), (6, 4, 5), (6, 4, 5, 3), (2, 4, 5, 3, 2)])
def test_batch_norm_of_every_rank(size):
    case = Case(Shape("s", size, "a test"))
    inputs = make_inputs(case, CPU)
    for phase in ("train", "eval"):
        y = BatchNorm().layer(case.vary(phase=phase), inputs).forward(inputs.x)
        mean, var = torch.zeros(4), torch.ones(4)
        right = functional.batch_norm(
            inputs.x, mean, var, inputs.weight, inputs.bias, training=phase == "train"
        )
        torch.testing.assert_close(y, right)


def test_batch_norm_step_returns_its_gradients(case):
    inputs = make_inputs(case, CPU)
    layer = BatchNorm().layer(case, inputs)
    outcome = run_step(case, layer, trainable_input(case, inputs.x), inputs.dy)
    assert [g.shape for g in outcome.gradients] == [inputs.x.shape, (16,), (16,)]
    torch.testing.assert_close(outcome.gradients[2], inputs.dy.sum((0, 2, 3)))


def test_mode_norm_is_the_papers_formula(case):
    inputs = make_inputs(case, CPU)
    layer = ModeNorm().layer(case, inputs)
    weight, bias, gate_weight, gate_bias = layer.parameters
    x = inputs.x
    gates = torch.softmax(x.mean((2, 3)) @ gate_weight.T + gate_bias, 1)
    right = torch.zeros_like(x)
    for k in range(3):
        g = gates[:, k].view(-1, 1, 1, 1)
        mass = g.sum() * 30
        mean = (g * x).sum((0, 2, 3), keepdim=True) / mass
        var = (g * (x - mean).square()).sum((0, 2, 3), keepdim=True) / mass
        right += g * (x - mean) / (var + 1e-5).sqrt()
    right = right * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer.forward(x), right)
    gradients = run_step(case, layer, trainable_input(case, x), inputs.dy).gradients
    assert all(g.norm() > 0 for g in gradients)


def test_scikit_learn_and_ours_take_the_same_em_steps(case):
    pytest.importorskip("sklearn", reason="scikit-learn is the baseline under test")
    em = case.vary(phase="em", shape=Shape("s", (64, 6, 4, 4), "a test"))
    inputs = make_inputs(em, CPU)
    theirs = Sklearn().layer(em, inputs).forward(inputs.x)
    ours = MixtureNorm("reference").layer(em, inputs).forward(inputs.x)
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-3, atol=1e-3)


def test_positions_are_rows():
    x = torch.arange(24).view(2, 3, 2, 2)
    assert torch.equal(positions(x)[5], x[1, :, 0, 1])


def test_copy_copies(case):
    inputs = make_inputs(case, CPU)
    y = run_step(case, Copy().layer(case, inputs), trainable_input(case, inputs.x), inputs.dy).y
    assert torch.equal(y, inputs.x)
    assert y.data_ptr() != inputs.x.data_ptr()


def test_each_serves_its_phases(case):
    assert Sklearn().serves("em")
    assert not Sklearn().serves("train")
    assert not BatchNorm().serves("em")
    assert not MixtureNorm("reference", compile_it=True).serves("em")
    assert "latency" in (Copy().why_not(case.vary(shape=Shape("t", (1, 2), "", "latency")), None))


def test_without_a_compiler_the_reason_names_what_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    reason = compiler_missing("cpu")
    assert "C++ compiler" in reason
    x = torch.empty(2, 3, 4, 4)
    case = Case(Shape("s", tuple(x.shape), "a test"))
    assert BatchNorm(compile_it=True).why_not(case, x) == reason
    assert MixtureNorm("reference", compile_it=True).why_not(case, x) == reason
    assert BatchNorm().why_not(case, x) is None


def test_saved_bytes_count_each_storage_once(case):
    x = make_inputs(case, CPU).x.requires_grad_()

    def layer(forward):
        return type("L", (), {"forward": staticmethod(forward), "parameters": (x,)})()

    assert saved_bytes(case, layer(lambda x: x * x), x) == x.nbytes
    assert saved_bytes(case, layer(lambda x: x[:2] * x[2:]), x) == x.nbytes
    assert saved_bytes(case, layer(lambda x: (2 * x) * x), x) == 2 * x.nbytes
    # exp keeps its output, a sum nothing
    assert saved_bytes(case, layer(lambda x: x.exp().sum()), x) == x.nbytes
    assert saved_bytes(case.vary(phase="eval"), layer(lambda x: x), x) is None
    assert peak_bytes(case, layer(lambda x: x), x, x) is None
