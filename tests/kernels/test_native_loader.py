"""The lazy loader and the build configuration: what is missing is said, with the remedy."""

import functools
from pathlib import Path

import pytest
import torch

from mixnorm_cuda.kernels.native import loader, ops, registration
from mixnorm_cuda.kernels.native.build_config import build_config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the one that the libraries lie in, and nothing loaded yet."""
    monkeypatch.setattr(loader, "_FOLDER", tmp_path)
    monkeypatch.delenv("MIXNORM_EMULATED_LIBRARY", raising=False)
    monkeypatch.setattr(loader, "_load", functools.cache(loader._load.__wrapped__))
    return tmp_path


@pytest.mark.parametrize("library", loader.LIBRARIES)
def test_a_library_that_was_not_built(library: str, folder: Path) -> None:
    reason = loader.missing(library)
    assert reason is not None
    assert "was not built" in reason
    assert "pip install --no-build-isolation" in reason


def test_an_emulated_library_may_be_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXNORM_EMULATED_LIBRARY", str(folder / "other.so"))
    assert loader.library_path("emulated") == folder / "other.so"
    assert loader.library_path("cpu") == folder / "libmixnorm_cpu.so"


def test_a_library_that_does_not_load(folder: Path) -> None:
    loader.library_path("cpu").write_bytes(b"not a library")
    reason = loader.missing("cpu")
    assert reason is not None
    assert "libmixnorm_cpu.so cannot be loaded" in reason
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        loader.require("cpu")


@pytest.mark.skipif(loader.missing("cpu") is not None, reason="no CPU operators in this build")
def test_a_broken_cuda_library_does_not_cost_the_cpu_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loader.missing("cpu") is None
    (tmp_path / "libmixnorm_cuda.so").write_bytes(b"not a library")
    monkeypatch.setattr(loader, "_FOLDER", tmp_path)
    # Past the cache: the CPU library is loaded, the CUDA library is tried anew.
    assert "cannot be loaded" in loader._load.__wrapped__("cuda")
    assert loader.missing("cpu") is None
    assert hasattr(torch.ops.mixnorm, "moments")


@pytest.mark.skipif(loader.missing("cpu") is not None, reason="no CPU operators in this build")
def test_a_library_built_from_older_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "absent", lambda namespace: ["moments"])
    reason = loader._load.__wrapped__("cpu")
    assert "was built from other sources, it lacks moments; run" in reason


def test_operators_without_an_implementation_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "OPERATORS", ("moments", "newer"))
    assert registration.absent("mixnorm") == ["newer"]


def test_an_unknown_library() -> None:
    with pytest.raises(ValueError, match="library='rocm': expected one of"):
        loader.missing("rocm")


def test_an_operator_without_its_library(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="CPU operator library was not built"):
        ops.cuda_device_info()


def test_build_config_agrees_with_the_loader() -> None:
    config = build_config()
    assert config["torch"] == torch.__version__
    assert set(config["libraries"]) == set(loader.LIBRARIES)
    for library, state in config["libraries"].items():
        assert state["missing"] == loader.missing(library)
        assert (state["path"] is None) <= (state["missing"] is not None)
    if config["libraries"]["cuda"]["path"] is not None:
        assert config["built_with"] is None or config["built_with"]["cuda"] is not None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.skipif(loader.missing("cuda") is not None, reason=f"{loader.missing('cuda')}")
def test_cuda_device_info_agrees_with_torch() -> None:
    info = ops.cuda_device_info(0)
    properties = torch.cuda.get_device_properties(0)
    assert info.multiprocessors == properties.multi_processor_count
    assert info.l2_bytes == properties.L2_cache_size
    assert info.shared_memory_per_block == properties.shared_memory_per_block_optin
    # Machine code runs on its own generation only.
    assert info.binary_version // 10 == properties.major
    with pytest.raises(ValueError, match="device is 99, expected 0 to"):
        ops.cuda_device_info(99)
