"""tools/toolchain.py: the source list and the search for compilers."""

from pathlib import Path

import pytest
import toolchain
from project import ROOT


def write_list(folder: Path, text: str) -> Path:
    (folder / "csrc").mkdir(exist_ok=True)
    (folder / "csrc/sources.txt").write_text(text)
    (folder / "csrc/a.cpp").touch()
    return folder


def test_source_list_names_every_compiled_file() -> None:
    listed = {path for paths in toolchain.read_sources().values() for path in paths}
    present = {
        path.relative_to(ROOT).as_posix()
        for suffix in ("*.cpp", "*.cu")
        for path in (ROOT / "csrc").rglob(suffix)
    }
    assert listed == present


def test_source_list_comments_and_groups(tmp_path: Path) -> None:
    folder = write_list(tmp_path, "# all\n\nops a.cpp  # one\nkernels a.cpp\n")
    assert toolchain.read_sources(folder) == {"ops": ["csrc/a.cpp"], "kernels": ["csrc/a.cpp"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [("ops", "sources.txt:2: expected 'group path'"), ("ops b.cpp", "no file csrc/b.cpp")],
)
def test_source_list_errors(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toolchain.read_sources(write_list(tmp_path, f"# first\n{line}\n"))


def test_a_compiler_that_was_chosen_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert toolchain.find_compiler("CXX") is None
    monkeypatch.setenv("CXX", "env c++")
    assert toolchain.find_compiler("CXX") == "env c++"


def test_no_toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolchain.find_cuda_home() is None


def test_default_archs_are_those_that_nvcc_knows(tmp_path: Path) -> None:
    nvcc = tmp_path / "bin/nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho compute_80 compute_90\n")
    nvcc.chmod(0o755)
    assert toolchain.default_cuda_archs(tmp_path) == ["8.0", "9.0+PTX"]
    assert toolchain.default_cuda_archs(tmp_path / "absent") == []
