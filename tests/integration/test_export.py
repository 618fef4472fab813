"""torch.export, ONNX and AOTInductor: an exported eval model needs nothing of this package."""

import copy
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mixnorm_cuda as mx

OPTIONS = [
    {},
    {"num_components": 1},
    {"groups": 8},
    {"component_affine": True},
    {"mixing_scale": False},
    {"affine": False},
    {"estimator": "batch"},
    {"responsibility_grad": False},
]


def trained(**options: object) -> nn.Module:
    """A small network in eval mode whose statistics describe data.

    Its components overlap and hold dozens of samples each. Narrow ones, as batches of 16 leave,
    have log-odds of hundreds, whose rounding shows in the fourth digit of some outputs.
    """
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        mx.MixtureNorm2d(8, **options),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        mx.MixtureNorm1d(8),
        nn.Linear(8, 4),
    )
    for _ in range(3):
        network(images(128))
    return network.eval()


def images(samples: int) -> Tensor:
    return torch.randn(samples, 3, 9, 7) + torch.randint(0, 3, (samples, 1, 1, 1)) / 4


def exported(network: nn.Module, **options: object) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=2, max=1024)
    return torch.export.export(network, (images(4),), dynamic_shapes=({0: batch},), **options)


def foreign_operators(program: torch.export.ExportedProgram) -> set[str]:
    graphs = [
        m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)
    ]
    targets = {n.target for graph in graphs for n in graph.nodes if n.op == "call_function"}
    return {str(target) for target in targets if getattr(target, "namespace", "aten") != "aten"}


def assert_same(actual: Tensor, expected: Tensor) -> None:
    # Both float32, summed in another order by another implementation: in 150 networks of other
    # seeds the largest difference was 3.5e-6 of 1 + |y|.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "strict"), [({}, True), *((options, False) for options in OPTIONS)], ids=str
)
def test_export_is_plain_aten(options: dict[str, object], strict: bool) -> None:
    network = trained(**options)
    program = exported(network, strict=strict)
    assert foreign_operators(program) == set()
    for samples in (2, 4, 33):
        x = images(samples)
        assert_same(program.module()(x), network(x))


def test_every_size_may_vary() -> None:
    network = trained()
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(network, (images(4),), dynamic_shapes=(sizes,))
    for shape in ((2, 3, 5, 5), (7, 3, 12, 6)):
        x = torch.randn(shape)
        assert_same(program.module()(x), network(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    network = trained().to(dtype)
    x = images(4).to(dtype)
    program = torch.export.export(network, (x,))
    tolerance = 2**-6 if dtype == torch.bfloat16 else 1e-10
    torch.testing.assert_close(program.module()(x), network(x), rtol=tolerance, atol=tolerance)


def test_decompositions() -> None:
    network = trained()
    program = exported(network).run_decompositions()
    assert foreign_operators(program) == set()
    x = images(5)
    assert_same(program.module()(x), network(x))


def test_a_saved_program_runs_without_the_package(tmp_path: Path) -> None:
    network, x = trained(), images(5)
    torch.export.save(exported(network), tmp_path / "network.pt2")
    torch.save((x, network(x).detach()), tmp_path / "expected.pt")
    code = (
        "import sys, torch; program = torch.export.load('network.pt2').module(); "
        "x, expected = torch.load('expected.pt'); "
        "torch.testing.assert_close(program(x), expected, rtol=1e-5, atol=1e-5); "
        "assert 'mixnorm_cuda' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)


def test_given_responsibilities() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(3, 2)
            self.norm = mx.MixtureNorm2d(3, num_components=2, mixing_scale=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x, self.gate(x.mean((2, 3))).softmax(1))

    network = Gated()
    network(images(16))
    program = exported(network.eval())
    assert foreign_operators(program) == set()
    x = images(6)
    assert_same(program.module()(x), network(x))


def test_a_training_step_is_exported_with_its_statistics() -> None:
    """For tools that export before training, such as quantization: buffers change in the graph."""
    network = trained().train()
    program = exported(copy.deepcopy(network))  # which shares the buffers with the program
    assert foreign_operators(program) <= {"wrap_with_set_grad_enabled"}  # PyTorch's own no_grad
    x = images(128)
    module = program.module()
    assert_same(module(x), network(x))
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffer, network.get_buffer(name), rtol=1e-5, atol=1e-6)
    assert network[1].num_batches_tracked == 4


def test_an_exported_training_step_may_seed() -> None:
    layer = mx.MixtureNorm2d(3, estimator="batch")
    layer(images(16))
    program = torch.export.export(layer, (images(16),))
    assert foreign_operators(program) <= {"wrap_with_set_grad_enabled"}
    x = images(16)
    y = program.module()(x)
    assert y.isfinite().all()
    assert layer.num_batches_tracked == 2


def test_eager_use_goes_on_after_an_export() -> None:
    network = trained()
    exported(network)
    x = images(4).requires_grad_()
    network.train()(x).sum().backward()
    assert x.grad is not None
    assert network[1].num_batches_tracked == 4


ONNX = [
    name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)
]


@pytest.mark.skipif(bool(ONNX), reason=f"not installed: {', '.join(ONNX)}")
@pytest.mark.parametrize("options", [{}, {"num_components": 1}, {"groups": 8}], ids=str)
def test_onnx(options: dict[str, object], tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    network, path = trained(**options), tmp_path / "network.onnx"
    torch.onnx.export(
        network,
        (images(4),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=1024)},),
        input_names=["images"],
        verbose=False,
    )
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for samples in (2, 9):
        x = images(samples)
        (found,) = session.run(None, {"images": x.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), network(x).detach(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_ahead_of_time_compilation(tmp_path: Path) -> None:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    network = mx.MixtureNorm2d(3)
    network(images(16))
    network.eval()
    path = torch._inductor.aoti_compile_and_package(
        exported(network), package_path=str(tmp_path / "network.pt2")
    )
    compiled = torch._inductor.aoti_load_package(path)
    for samples in (2, 9):
        x = images(samples)
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
