"""Builds the operator libraries and the build-information module.

    libmixnorm_cpu.so    the CPU operators and every operator schema
    libmixnorm_cuda.so   the CUDA operators
    _C                   what the two were built with (pybind11)
    libmixnorm_emulated.so    for tests, on request: the CUDA operators on the CPU

They are files of their own so that a missing piece costs only itself: without a C++ compiler the
package is pure Python, without a CUDA toolkit or runtime the CPU operators still serve. What is
left out is said loudly; an error while compiling is always an error.

    MIXNORM_NATIVE=0           build nothing, pure Python
    FORCE_CUDA=1 / 0           CUDA operators: fail without them / leave them out
    MIXNORM_EMULATION=1        also the CUDA kernels' own sources as C++ (csrc/README.md)
    TORCH_CUDA_ARCH_LIST=...   such as "9.0" (default: the visible GPUs', else 8.0;9.0;10.0+PTX)
    CC, CXX, CUDA_HOME         which compilers and toolkit
    MAX_JOBS                   how many compilers at once
"""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import toolchain  # noqa: E402  (tools/ is not a package that pip would put on the path)

MINIMUM_TORCH = (2, 10)
# The oldest libtorch whose stable ABI the operators call: one binary for it and all later ones.
TORCH_TARGET_VERSION = "0x020a000000000000"
PACKAGE = "mixnorm_cuda.kernels.native"


def notice(*lines: str) -> None:
    """Print where it is seen: pip hides a build's output unless it fails or -v is given."""
    width = max(len(line) for line in lines)
    print("\n".join(["*" * width, *lines, "*" * width]), file=sys.stderr, flush=True)


def stop(message: str) -> None:
    raise SystemExit(f"mixnorm_cuda: {message}")


def flag(name: str) -> bool | None:
    """An environment switch: True, False, or None when it is not set."""
    value = os.environ.get(name, "").strip().lower()
    if value in ("", "auto"):
        return None
    if value in ("1", "0", "on", "off", "true", "false", "yes", "no"):
        return value in ("1", "on", "true", "yes")
    return stop(f"{name}={value!r}: expected 1, 0 or nothing")


def import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        stop(
            "building needs PyTorch 2.10 or later in this environment "
            f"({error}): run 'pip install torch setuptools', then "
            "'pip install --no-build-isolation .'"
        )
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < MINIMUM_TORCH:
        stop(f"PyTorch 2.10 or later is needed, found {torch.__version__}")
    return torch


def use_cuda(torch: Any, sources: dict[str, list[str]]) -> Path | None:
    """The toolkit to build the CUDA operators with; None leaves them out, with the reason said."""
    wanted = flag("FORCE_CUDA")
    if wanted is False or not sources.get("cuda_kernels"):
        return None
    if torch.version.cuda is None:
        if wanted:
            stop(f"FORCE_CUDA=1, but PyTorch {torch.__version__} is built without CUDA")
        return None
    home = toolchain.find_cuda_home()
    release = toolchain.nvcc_version(home) if home else None
    if home is None or release is None:
        reason = "no usable nvcc was found (set CUDA_HOME to the CUDA toolkit)"
    elif release.split(".")[0] != torch.version.cuda.split(".")[0]:
        reason = f"nvcc in {home} is of CUDA {release}, PyTorch of CUDA {torch.version.cuda}"
    else:
        return home
    if wanted:
        stop(f"FORCE_CUDA=1, but {reason}")
    notice(
        f"mixnorm_cuda: PyTorch {torch.__version__} has CUDA {torch.version.cuda}, but {reason}.",
        "Only the CPU operators are built. FORCE_CUDA=1 makes this an error.",
    )
    return None


def cuda_archs(torch: Any, home: Path) -> str:
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if chosen:
        return chosen
    visible = sorted(
        {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    )
    archs = [f"{major}.{minor}" for major, minor in visible]
    return ";".join(
        [*archs[:-1], f"{archs[-1]}+PTX"] if archs else toolchain.default_cuda_archs(home)
    )


def wrapped(files: list[str]) -> list[str]:
    """A C++ file that includes each, .cpp or .cu: nvcc is not called, no object has two makers."""
    folder = Path("build/emulation")
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    written = []
    for file in files:
        name = Path(file).relative_to("csrc")
        path = folder / f"emulated_{'_'.join(name.with_suffix('').parts)}.cpp"
        text = f'#include "{name}"\n'
        if not (ROOT / path).is_file() or (ROOT / path).read_text() != text:
            (ROOT / path).write_text(text)
        written.append(str(path))
    return written


def native() -> dict[str, Any]:
    """The arguments of setup() that build the native parts, or none of them."""
    switch = flag("MIXNORM_NATIVE")
    if switch is False:
        notice("mixnorm_cuda: MIXNORM_NATIVE=0, building pure Python: no native operators.")
        return {}
    compilers = {name: toolchain.find_compiler(name) for name in ("CXX", "CC")}
    if compilers["CXX"] is None:
        if switch or flag("FORCE_CUDA"):
            stop("no C++ compiler was found (CXX, or c++, g++ or clang++ on PATH)")
        notice(
            "mixnorm_cuda: no C++ compiler was found (CXX, or c++, g++ or clang++ on PATH):",
            "building pure Python. Everything works, slower: no native operators.",
        )
        return {}
    os.environ["CXX"] = compilers["CXX"]
    os.environ["CC"] = compilers["CC"] or compilers["CXX"]

    torch = import_torch()
    sources = toolchain.read_sources(ROOT)
    cuda_home = use_cuda(torch, sources)
    archs = ""
    if cuda_home is not None:
        archs = cuda_archs(torch, cuda_home)
        os.environ["CUDA_HOME"] = str(cuda_home)
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs

    from torch.utils import cpp_extension

    if cuda_home is not None:
        cpp_extension.CUDA_HOME = str(cuda_home)  # it may have been guessed before this line

    headers = [
        str(path.relative_to(ROOT))
        for pattern in ("*.h", "*.cuh")
        for path in sorted((ROOT / "csrc").rglob(pattern))
    ]
    cxx_flags = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra"]
    # Torch's headers are not ours to warn about.
    system = [f"-isystem{path}" for path in cpp_extension.include_paths()]

    def files(*groups: str) -> list[str]:
        return [path for group in groups for path in sources.get(group, [])]

    def operators(name: str, files: list[str], **options: Any) -> Extension:
        return Extension(
            f"{PACKAGE}.{name}",
            files,
            # The emulation's stand-ins for CUDA's headers hide those of a toolkit.
            include_dirs=[*options.pop("include_dirs", []), str(ROOT / "csrc")],
            define_macros=[
                ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
                *options.pop("define_macros", []),
            ],
            extra_compile_args={
                "cxx": [*cxx_flags, *options.pop("flags", []), *system],
                # Compressed: line numbers would make it 80 MB an architecture.
                "nvcc": ["-O3", "-std=c++20", "-lineinfo", "--threads=2", "-Xfatbin=-compress-all"],
            },
            library_dirs=[*cpp_extension.library_paths(), *options.pop("library_dirs", [])],
            libraries=["torch_cpu", *options.pop("libraries", [])],
            depends=[*headers, "csrc/sources.txt", *options.pop("depends", [])],
            language="c++",
            **options,
        )

    extensions = [operators("libmixnorm_cpu", files("cpu_kernels", "cpu_ops"))]
    if cuda_home is not None:
        extensions.append(
            operators(
                "libmixnorm_cuda",
                files("cuda_kernels", "cuda_ops", "cuda_only_ops"),
                include_dirs=[str(cuda_home / "include")],
                library_dirs=[str(cuda_home / "lib64")],
                libraries=["torch_cuda", "cudart"],
                define_macros=[("USE_CUDA", None)],  # what guards CUDA in Torch's stable headers
            )
        )
    if flag("MIXNORM_EMULATION"):
        emulated = files("emulation", "cuda_kernels", "cuda_ops", "emulation_ops")
        extensions.append(
            operators(
                "libmixnorm_emulated",
                wrapped(emulated),
                include_dirs=[str(ROOT / "csrc/emulation/include")],
                define_macros=[("MIXNORM_EMULATION", None)],
                # Compiled for every test run: half the time of -O3, and fast enough. nvcc knows no
                # strict aliasing.
                flags=["-O1", "-fno-strict-aliasing", "-Wno-unknown-pragmas"],
                depends=emulated,
            )
        )
    if toolchain.has_python_headers():
        facts = {
            "MIXNORM_TORCH_VERSION": torch.__version__,
            "MIXNORM_CUDA_VERSION": toolchain.nvcc_version(cuda_home) if cuda_home else "",
            "MIXNORM_CUDA_ARCHS": archs,
            "MIXNORM_PYTHON_VERSION": platform.python_version(),
        }
        extensions.append(
            Extension(
                f"{PACKAGE}._C",
                sources["module"],
                define_macros=[(name, f'"{value}"') for name, value in facts.items()],
                extra_compile_args={"cxx": [*cxx_flags, *system]},
                depends=headers,
                language="c++",
            )
        )
    else:
        notice("mixnorm_cuda: Python.h was not found: the build-information module is left out.")

    class BuildOperators(cpp_extension.BuildExtension):
        def get_ext_filename(self, fullname: str) -> str:
            """The operator libraries are not Python modules: no Python version in their names."""
            name = Path(super().get_ext_filename(fullname))
            stem = name.name.split(".")[0]
            return str(name.with_name(f"{stem}.so") if stem.startswith("lib") else name)

        def get_export_symbols(self, ext: Extension) -> list[str]:
            return ext.export_symbols  # no PyInit_ in the operator libraries

    return {"ext_modules": extensions, "cmdclass": {"build_ext": BuildOperators}}


setup(**native())
