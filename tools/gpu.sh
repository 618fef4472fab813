#!/usr/bin/env bash
# Tests on CUDA, the benchmark, and the Triton kernels' tuning, in the environment it is started in:
# nothing is installed. Results go to $OUT_DIR; to keep them, copy bench/* to bench/results/ and
# tuning.json to bench/compiled/, and run python -m bench.readme and python -m bench.preference.
# Ends within ten minutes: each step has its share of them.
#   PYTHON    the interpreter (default: python3)      ARGS  the benchmark's arguments
#   BUILD_S, TEST_S, BENCH_S, TUNE_S   the steps' time limits in seconds
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
results=${OUT_DIR:-out/gpu}
mkdir -p "$results"
bench_s=${BENCH_S:-130}
tune_s=${TUNE_S:-80}
status=0

step() { # step NAME SECONDS COMMAND...
  local name=$1 limit=$2 code=0
  shift 2
  echo "== $name (at most $limit s)"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$results/$name.log" || code=${PIPESTATUS[0]}
  if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then echo "$name: stopped at its limit of $limit s"; fi
  if [ "$code" -ne 0 ]; then
    echo "$name: exit status $code" | tee -a "$results/$name.log"
    status=1
  fi
}

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "make gpu: $python has no PyTorch that sees a CUDA device" >&2
  exit 1
fi
step build "${BUILD_S:-200}" "$python" setup.py -q build_ext --inplace
step info 20 "$python" -m mixnorm_cuda.info
step tests "${TEST_S:-160}" "$python" -m pytest tests -m cuda --junitxml "$results/tests.xml"
# shellcheck disable=SC2086  # ARGS is a list of words
step bench "$bench_s" "$python" -m bench --device cuda --budget $((bench_s - 20)) --out "$results/bench" ${ARGS:-}
step tune "$tune_s" "$python" tools/tune_triton.py --seconds $((tune_s - 20)) --out "$results/tuning.json"
echo "results: $results"
exit "$status"
