# make demo    train with BN and with MN on real images, print the table, save the plots
# make test    every test
# make emulation   what runs the CUDA kernels' own source on the CPU, for the tests
# make sanitize    C++ tests, and every test of the emulated CUDA kernels, under sanitizers
# make check   lint, format, types, layers, register spills of CUDA and Triton kernels
# make bench   the benchmark; ARGS="..." for its options
# make gpu     in the current environment, without installing: tests on CUDA, benchmark, tuning
# make gpu-inspect   after it: compute-sanitizer and Nsight Compute over the CUDA kernels
# make clean   remove what was built, not the environment
#
# The environment is made in $(VENV) on first use. Variables:
#   PYTHON   the interpreter to make it with, 3.10 or later
#   TORCH    the requirement that installs PyTorch
#   ARGS     arguments of the demo, the tests or the benchmark
#   OUT_DIR  where make gpu puts its results

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

SUPPORTED := import sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(or $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.10 python3,\
  $(shell $(p) -c '$(SUPPORTED)' 2>/dev/null && echo $(p)))),$(error no Python 3.10 or later was found: set PYTHON))
TORCH ?= torch==2.13.0
VENV ?= .venv
OUT_DIR ?= out/gpu
ARGS ?=
MAX_JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export MAX_JOBS
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
ENV := PATH="$(abspath $(BIN)):$$PATH"
RUN := $(ENV) python
NATIVE := setup.py tools/toolchain.py csrc/sources.txt $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
FORMATTED := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

SANITIZED := build-cmake
CHECKS := check-lint check-format check-types check-layers check-spills check-triton
SANITIZE := sanitize-native sanitize-emulated
.PHONY: demo test emulation $(SANITIZED) sanitize $(SANITIZE) check $(CHECKS) bench gpu gpu-inspect clean help
help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(VENV)/.demo $(VENV)/.native
	$(RUN) -m examples.demo $(ARGS)

test: $(VENV)/.dev $(VENV)/.emulation
	$(RUN) -m pytest tests $(ARGS)

emulation: $(VENV)/.dev $(VENV)/.emulation

sanitize: $(SANITIZE)

$(SANITIZED): $(VENV)/.dev
	$(ENV) cmake -G Ninja -S . -B $@ -DMIXNORM_SANITIZE=address,undefined \
	  -DPython3_EXECUTABLE="$(abspath $(BIN)/python)"
	$(ENV) cmake --build $@ -j $(MAX_JOBS)

sanitize-native: $(SANITIZED)
	ctest --test-dir $< --output-on-failure -j $(MAX_JOBS)

# The interpreter is not sanitized: the runtimes that the library needs are loaded ahead of it, in
# the order of their names (AddressSanitizer's has to be first), and C++'s, whose exceptions they
# watch. What Python itself leaks is not ours.
RUNTIMES = $(shell ldd $(1) | awk '/lib(asan|stdc\+\+|ubsan)\.so/ { print $$3 }' | sort)

sanitize-emulated: LIBRARY = $(abspath $(SANITIZED))/libmixnorm_emulated.so
sanitize-emulated: $(SANITIZED) $(VENV)/.native
	$(ENV) LD_PRELOAD="$(call RUNTIMES,$(LIBRARY))" ASAN_OPTIONS=detect_leaks=0 \
	  MIXNORM_EMULATED_LIBRARY=$(LIBRARY) python -m pytest tests -k emulated $(ARGS)

bench: $(VENV)/.demo $(VENV)/.native
	$(RUN) -m bench $(ARGS)

check: $(CHECKS)
$(CHECKS): $(VENV)/.dev
check-layers: $(VENV)/.native

check-lint:
	$(RUN) -m ruff check .

check-format:
	$(RUN) -m ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

check-types:
	$(RUN) -m mypy

check-layers:
	$(RUN) -m pytest -q tests/test_layering.py

check-spills:
	$(RUN) tools/check_spills.py

check-triton:
	$(RUN) tools/check_triton.py

# Neither installs anything: the interpreter is the user's unless PYTHON is given.
GPU_RUN = OUT_DIR="$(OUT_DIR)" ARGS="$(ARGS)" $(if $(filter file,$(origin PYTHON)),,PYTHON="$(PYTHON)")

gpu:
	$(GPU_RUN) tools/gpu.sh

gpu-inspect:
	$(GPU_RUN) tools/gpu_inspect.sh

clean:
	rm -rf build build-cmake* dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	rm -f mixnorm_cuda/kernels/native/*.so
	rm -f $(VENV)/.native $(VENV)/.emulation
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

# The environment, in steps that are redone only when what they depend on has changed.

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip "setuptools>=77" wheel ninja
	$(BIN)/python -m pip install -q "$(TORCH)"
	touch $@

# MIXNORM_NATIVE=0: this step installs the package in place and its requirements, the next compiles.
$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	MIXNORM_NATIVE=0 $(BIN)/python -m pip install -q --no-build-isolation -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	MIXNORM_NATIVE=0 $(BIN)/python -m pip install -q --no-build-isolation -e '.[demo,test,dev]'
	touch $@

# An error while compiling ends make here; what is left out on purpose is said and goes on.
$(VENV)/.native: $(VENV)/.torch $(NATIVE)
	mkdir -p build
	$(RUN) setup.py -q build_ext --inplace > build/native.log 2>&1 || { cat build/native.log; exit 1; }
	@grep -A3 '^\*\*\*' build/native.log || true
	touch $@

# The CUDA kernels as C++; what .native has built already is not built again.
$(VENV)/.emulation: $(VENV)/.native
	MIXNORM_EMULATION=1 $(RUN) setup.py -q build_ext --inplace > build/emulation.log 2>&1 \
	  || { cat build/emulation.log; exit 1; }
	touch $@
