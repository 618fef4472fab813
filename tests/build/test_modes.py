"""setup.py in every mode: which parts it plans to build, what it says, when it stops.

``plan`` runs setup.py up to the call of setup(), so nothing is compiled; test_wheels.py compiles.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from project import Outcome, Project

CPU = "libmixnorm_cpu"
CUDA = "libmixnorm_cuda"

_PLAN = """
import json, os, runpy, setuptools, sys
{prelude}
def report(**arguments):
    names = [e.name.rpartition(".")[2] for e in arguments.get("ext_modules", [])]
    print(json.dumps(dict(extensions=names, archs=os.environ.get("TORCH_CUDA_ARCH_LIST"),
                          cuda_home=os.environ.get("CUDA_HOME"))))
setuptools.setup = report
sys.argv = ["setup.py"]
runpy.run_path("setup.py", run_name="__main__")
"""

# A build of PyTorch with CUDA as far as setup.py looks.
CUDA_TORCH = "import torch; torch.version.cuda = '13.0'"
CPU_TORCH = "import torch; torch.version.cuda = None"


def run(project: Project, prelude: str, **environment: str) -> Outcome:
    return project.python("-c", _PLAN.format(prelude=prelude), **environment)


def plan(project: Project, prelude: str = CPU_TORCH, **environment: str) -> tuple[Any, str]:
    """What is to be built, and what was said about it."""
    outcome = run(project, prelude, **environment)
    assert outcome.status == 0, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1]), outcome.stderr


def refusal(project: Project, prelude: str = CPU_TORCH, **environment: str) -> str:
    """The one line that setup.py stops with."""
    outcome = run(project, prelude, **environment)
    assert outcome.status == 1, outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("mixnorm_cuda: ")
    return lines[0]


def make_nvcc(folder: Path, release: str = "13.0") -> Path:
    """A stand-in for a toolkit's nvcc: answers the questions that the build asks."""
    nvcc = folder / "bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"""#!/bin/sh
case "$*" in
  *--dryrun*) echo '#$ TOP={folder}/bin/..' >&2;;
  *--version*) echo 'Cuda compilation tools, release {release}, V{release}.1';;
  *--list-gpu-arch*) echo 'compute_80 compute_90 compute_100';;
esac
""")
    nvcc.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand-ins, so that the plan is the same on a machine without compilers."""
    folder = tmp_path / "compilers"
    folder.mkdir()
    for name in ("cc", "c++"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_compiler_and_no_cuda(project: Project) -> None:
    built, said = plan(project)
    assert CPU in built["extensions"]
    assert CUDA not in built["extensions"]
    assert "***" not in said


@pytest.mark.parametrize(
    "environment",
    [{"CXX": "/nowhere/c++"}, {"PATH": "/nowhere"}, {"MIXNORM_NATIVE": "0"}],
    ids=["CXX names nothing", "empty PATH", "MIXNORM_NATIVE=0"],
)
def test_no_compiler_is_pure_python(project: Project, environment: dict[str, str]) -> None:
    built, said = plan(project, **environment)
    assert built["extensions"] == []
    assert "pure Python" in said
    assert "***" in said


def test_no_compiler_where_native_code_is_demanded(project: Project) -> None:
    assert "no C++ compiler" in refusal(project, CXX="/nowhere/c++", MIXNORM_NATIVE="1")
    assert "no C++ compiler" in refusal(project, CXX="/nowhere/c++", FORCE_CUDA="1")


def test_a_switch_that_is_neither_on_nor_off(project: Project) -> None:
    assert "FORCE_CUDA='maybe': expected 1, 0 or nothing" in refusal(project, FORCE_CUDA="maybe")


def test_no_torch(project: Project) -> None:
    without = "sys.modules['torch'] = None"
    assert "building needs PyTorch 2.10 or later" in refusal(project, without)
    built, _ = plan(project, without, MIXNORM_NATIVE="0")
    assert built["extensions"] == []


def test_old_torch(project: Project) -> None:
    old = "import types; sys.modules['torch'] = types.SimpleNamespace(__version__='2.9.1+cpu')"
    assert "PyTorch 2.10 or later is needed, found 2.9.1" in refusal(project, old)


def test_toolkit_absent(project: Project) -> None:
    built, said = plan(project, CUDA_TORCH)
    assert CPU in built["extensions"]
    assert CUDA not in built["extensions"]
    assert "no usable nvcc was found" in said
    assert "Only the CPU operators are built" in said


def test_toolkit_absent_where_cuda_is_demanded(project: Project) -> None:
    assert "no usable nvcc was found" in refusal(project, CUDA_TORCH, FORCE_CUDA="1")


def test_cuda_demanded_of_a_torch_without(project: Project) -> None:
    assert "is built without CUDA" in refusal(project, CPU_TORCH, FORCE_CUDA="1")


def test_toolkit_of_another_major_version(project: Project, tmp_path: Path) -> None:
    home = str(make_nvcc(tmp_path / "cuda", release="11.8"))
    built, said = plan(project, CUDA_TORCH, CUDA_HOME=home)
    assert CUDA not in built["extensions"]
    assert "is of CUDA 11.8, PyTorch of CUDA 13.0" in said
    assert "11.8" in refusal(project, CUDA_TORCH, CUDA_HOME=home, FORCE_CUDA="1")


def test_toolkit_present(project: Project, tmp_path: Path) -> None:
    home = str(make_nvcc(tmp_path / "cuda"))
    no_gpu = CUDA_TORCH + "; torch.cuda.device_count = lambda: 0"
    built, said = plan(project, no_gpu, CUDA_HOME=home)
    assert built["extensions"][:2] == [CPU, CUDA]
    assert built["archs"] == "8.0;9.0;10.0+PTX"
    assert "***" not in said


def test_arch_list_is_that_of_the_visible_gpus(project: Project, tmp_path: Path) -> None:
    home = str(make_nvcc(tmp_path / "cuda"))
    gpus = (
        CUDA_TORCH + "; torch.cuda.device_count = lambda: 3"
        "; torch.cuda.get_device_capability = lambda i: [(9, 0), (8, 6), (9, 0)][i]"
    )
    assert plan(project, gpus, CUDA_HOME=home)[0]["archs"] == "8.6;9.0+PTX"
    chosen, _ = plan(project, gpus, CUDA_HOME=home, TORCH_CUDA_ARCH_LIST="12.0")
    assert chosen["archs"] == "12.0"


def test_cuda_can_be_left_out(project: Project, tmp_path: Path) -> None:
    home = str(make_nvcc(tmp_path / "cuda"))
    built, _ = plan(project, CUDA_TORCH, CUDA_HOME=home, FORCE_CUDA="0")
    assert CUDA not in built["extensions"]


def test_toolkit_is_found_behind_a_wrapper(project: Project, tmp_path: Path) -> None:
    home = make_nvcc(tmp_path / "cuda")
    wrapper = tmp_path / "compilers/nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    built, _ = plan(project, CUDA_TORCH, CUDA_HOME="")
    assert CUDA in built["extensions"]
    assert built["cuda_home"] == str(home)


def test_emulation_on_request(project: Project) -> None:
    """A library beside the others, of C++ files that include the kernels: nvcc is not called."""
    planned, _ = plan(project, MIXNORM_EMULATION="1")
    assert "libmixnorm_emulated" in planned["extensions"]
    assert CUDA not in planned["extensions"]
    planned, _ = plan(project)
    assert "libmixnorm_emulated" not in planned["extensions"]
