"""Imports and includes point one way. A file may use its own room and the rooms of lower layers."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up. Rooms of one layer do not know each other.
PYTHON_LAYERS = (
    {"types", "checks", "tracing", "_version"},
    {"kernels", "reference"},
    {"dispatch", "distributed"},
    {"autograd", "estimation"},
    {"functional"},
    {"modules", "gaussian_mixture"},
    {"introspection", "metrics"},
    {"installation"},
    {"info"},
    {"__init__"},
)
# The one-room packages outside may use mixnorm_cuda, which never uses them.
OUTSIDE = ("bench", "examples", "setup", "tests", "tools")

CPP_LAYERS = (
    {"device"},
    {"cpu", "cuda"},
    {"emulation"},
    {"ops"},
    {"ops/cpu", "ops/cuda", "ops/emulation"},
    {"bindings", "build_info", "tests"},
)
# Two libraries: what is built for one device must not need the other's.
CPP_APART = (("ops/cpu", "cuda"), ("ops/cuda", "cpu"), ("ops/cuda", "emulation"))
KNOWS_TORCH = ("ops", "ops/cpu", "ops/cuda", "ops/emulation", "bindings")
TORCH_INCLUDE = re.compile(r"^(torch|ATen|c10|caffe2)/")


def layer_of(room: str, layers: tuple[set[str], ...]) -> int:
    for number, rooms in enumerate(layers):
        if room in rooms:
            return number
    raise AssertionError(f"{room!r} is in no layer: add it to tests/test_layering.py")


def points_up(source: str, target: str, layers: tuple[set[str], ...]) -> bool:
    return source != target and layer_of(target, layers) >= layer_of(source, layers)


def imported_modules(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in the file, also of those inside functions."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            folder = root.joinpath(*module.split("."))
            for alias in node.names:
                submodule = (folder / alias.name).is_dir() or (
                    folder / f"{alias.name}.py"
                ).is_file()
                yield node.lineno, f"{module}.{alias.name}" if submodule else module


def python_room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def python_violations(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "mixnorm_cuda").rglob("*.py")):
        relative = path.relative_to(root)
        room = python_room(".".join(relative.with_suffix("").parts))
        for line, module in imported_modules(path, root):
            top = module.split(".")[0]
            if top in OUTSIDE or (
                top == "mixnorm_cuda" and points_up(room, python_room(module), PYTHON_LAYERS)
            ):
                found.append(f"{relative}:{line}: {room} imports {module}")
    return found


def cpp_room(path: Path, csrc: Path) -> str:
    parts = path.relative_to(csrc).parts
    if len(parts) == 1:
        return path.stem
    return "/".join(parts[:2]) if parts[0] == "ops" and len(parts) > 2 else parts[0]


def cpp_violations(root: Path) -> list[str]:
    csrc = root / "csrc"
    found = []
    files = (p for suffix in ("h", "cuh", "cpp", "cu") for p in csrc.rglob(f"*.{suffix}"))
    for path in sorted(files):
        room = cpp_room(path, csrc)
        for line, text in enumerate(path.read_text().splitlines(), start=1):
            include = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', text)
            if include is None:
                continue
            place = f"{path.relative_to(root)}:{line}: {room} includes {include[1]}"
            if TORCH_INCLUDE.match(include[1]):
                if room not in KNOWS_TORCH:
                    found.append(f"{place}: only {', '.join(KNOWS_TORCH)} know Torch")
                continue
            candidates = (path.parent / include[1], csrc / include[1])
            target = next((c.resolve() for c in candidates if c.is_file()), None)
            if target is None:
                continue
            other = cpp_room(target, csrc)
            if points_up(room, other, CPP_LAYERS) or (room, other) in CPP_APART:
                found.append(place)
    return found


def test_python_imports_point_down() -> None:
    assert python_violations(ROOT) == []


def test_cpp_includes_point_down() -> None:
    assert cpp_violations(ROOT) == []


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kernels/a.py", "from mixnorm_cuda.dispatch import select"),
        ("kernels/a.py", "from mixnorm_cuda import dispatch"),
        ("kernels/native/a.py", "from ...dispatch import select"),
        ("kernels/a.py", "def f():\n    import mixnorm_cuda.functional"),
        ("kernels/a.py", "from mixnorm_cuda.reference import moments"),
        ("autograd/a.py", "from mixnorm_cuda.estimation import em"),
        ("types.py", "from mixnorm_cuda import MixtureNorm2d"),
        ("modules/a.py", "import mixnorm_cuda"),
        ("reference/a.py", "from tests.oracle import moments"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, name: str, text: str) -> None:
    plant(tmp_path, {"mixnorm_cuda/dispatch.py": "", f"mixnorm_cuda/{name}": text})
    assert len(python_violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("modules/a.py", "from mixnorm_cuda import dispatch\nfrom .b import c"),
        ("kernels/a.py", "from mixnorm_cuda.types import Mixture\nimport torch"),
        ("estimation/__init__.py", "from .em import em\nfrom mixnorm_cuda.estimation import em"),
    ],
)
def test_an_import_that_points_down_is_not(tmp_path: Path, name: str, text: str) -> None:
    plant(tmp_path, {"mixnorm_cuda/dispatch.py": "", f"mixnorm_cuda/{name}": text})
    assert python_violations(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "include"),
    [
        ("device/a.h", '"cpu/kernel.h"'),
        ("device/a.h", '"../cpu/kernel.h"'),
        ("cpu/a.cpp", '"ops/check.h"'),
        ("cpu/a.cpp", '"cuda/kernel.h"'),
        ("cuda/a.cu", '"cpu/kernel.h"'),
        ("cpu/a.cpp", "<torch/csrc/stable/tensor.h>"),
        ("cuda/a.cu", "<c10/cuda/CUDAStream.h>"),
        ("device/a.h", "<ATen/ATen.h>"),
        ("build_info.cpp", "<torch/csrc/stable/library.h>"),
        ("ops/a.h", '"ops/cpu/tensors.h"'),
        ("ops/cuda/a.cpp", '"cpu/kernel.h"'),
        ("ops/cpu/a.cpp", '"cuda/kernel.h"'),
        ("ops/cpu/a.cpp", '"ops/cuda/check.h"'),
    ],
)
def test_a_planted_include_is_found(tmp_path: Path, name: str, include: str) -> None:
    rooms = (
        "cpu/kernel.h",
        "cuda/kernel.h",
        "ops/check.h",
        "ops/cpu/tensors.h",
        "ops/cuda/check.h",
    )
    plant(tmp_path, {f"csrc/{room}": "" for room in rooms})
    plant(tmp_path, {f"csrc/{name}": f"#include {include}\n"})
    assert len(cpp_violations(tmp_path)) == 1


def test_a_room_without_a_layer_is_an_error(tmp_path: Path) -> None:
    plant(tmp_path, {"mixnorm_cuda/extras/a.py": "import mixnorm_cuda.types"})
    with pytest.raises(AssertionError, match="'extras' is in no layer"):
        python_violations(tmp_path)
