"""Wheels that are really built: without a compiler, with one, and with an error in the code."""

import shutil
import zipfile
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.slow

# An installation without native code is used, not only imported.
_USE = """
import torch, mixnorm_cuda
from mixnorm_cuda.kernels.native import loader
from mixnorm_cuda.kernels.native.build_config import build_config
y = mixnorm_cuda.MixtureNorm2d(4)(torch.randn(2, 4, 5, 5))
assert y.shape == (2, 4, 5, 5)
print(loader.missing("cpu"))
print(build_config()["built_with"])
"""

_HAS_SCHEMA = """
import torch
from mixnorm_cuda.kernels.native import loader
from mixnorm_cuda.kernels.native.build_config import build_config
print(loader.missing("cpu"))
print(torch.ops.mixnorm.moments.default._schema)
print(build_config()["built_with"]["torch"] == torch.__version__)
"""

needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="no C++ compiler named c++ on PATH"
)


def install(wheel: Path, folder: Path) -> list[str]:
    """Unpack a wheel, which is all that installing one does; the names that it holds."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        return archive.namelist()


def test_without_a_compiler(project: Project, tmp_path: Path) -> None:
    outcome, wheels = project.wheel(CXX="/nowhere/c++")
    assert outcome.status == 0, outcome.output
    assert "no C++ compiler was found" in outcome.output
    assert [wheel.name.split("-", 2)[2] for wheel in wheels] == ["py3-none-any.whl"]
    names = install(wheels[0], tmp_path / "site")
    assert "mixnorm_cuda/py.typed" in names
    assert "mixnorm_cuda/kernels/native/_C.pyi" in names
    assert not any(name.endswith(".so") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mixnorm_cuda"}
    used = project.python("-c", _USE, folder=tmp_path / "site")
    assert used.status == 0, used.stderr
    assert "CPU operator library was not built" in used.stdout
    assert used.stdout.splitlines()[-1] == "None"


@needs_compiler
def test_with_a_compiler(project: Project, tmp_path: Path) -> None:
    project.keep_sources("cpu_ops bindings.cpp", "module build_info.cpp")
    outcome, wheels = project.wheel()
    assert outcome.status == 0, outcome.output
    assert "none-any" not in wheels[0].name
    names = install(wheels[0], tmp_path / "site")
    # The operator library's name is free of the Python version: it is not a Python module.
    assert "mixnorm_cuda/kernels/native/libmixnorm_cpu.so" in names
    assert not any("libmixnorm_cuda" in name for name in names)
    used = project.python("-c", _HAS_SCHEMA, folder=tmp_path / "site")
    assert used.status == 0, used.stderr
    missing, schema, same_torch = used.stdout.splitlines()
    assert missing == "None"
    assert schema.startswith("mixnorm::moments(Tensor x, Tensor mixing_weight")
    assert same_torch == "True"


@needs_compiler
def test_a_compile_error_is_an_error(project: Project) -> None:
    project.keep_sources("cpu_ops bindings.cpp", "module build_info.cpp")
    with (project.root / "csrc/bindings.cpp").open("a") as file:
        file.write("this_is_not_cpp;\n")
    outcome, wheels = project.wheel()
    assert outcome.status != 0
    assert "this_is_not_cpp" in outcome.output
    assert wheels == []


def test_without_torch(project: Project) -> None:
    """Such as under build isolation: one clear line among what pip prints, and no wheel."""
    stub = project.root / "stub/torch.py"
    stub.parent.mkdir()
    stub.write_text("raise ImportError('No module named torch')\n")
    outcome, wheels = project.wheel(PYTHONPATH=str(stub.parent), CXX="true")
    assert outcome.status != 0
    assert "mixnorm_cuda: building needs PyTorch 2.10 or later" in outcome.output
    assert "Traceback" not in outcome.output
    assert wheels == []
