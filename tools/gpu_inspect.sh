#!/usr/bin/env bash
# The CUDA kernels under NVIDIA's tools, after make gpu has built them: compute-sanitizer over a
# short subset of their tests, Nsight Compute over one step of several layers. Results go to
# $OUT_DIR. A tool that is not installed is named and fails the run.
#   PYTHON    the interpreter (default: python3)
#   SANITIZE_S, PROFILE_S   time limits in seconds, of each sanitizer and of the profiler
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
results=${OUT_DIR:-out/gpu}
mkdir -p "$results"
status=0

step() { # step NAME SECONDS COMMAND...
  local name=$1 limit=$2 code=0
  shift 2
  echo "== $name (at most $limit s)"
  if ! command -v "$1" > /dev/null; then
    code=127
    echo "$name: $1 is not installed"
  else
    timeout --kill-after=10 "$limit" "$@" > "$results/$name.log" 2>&1 || code=$?
    tail -n 3 "$results/$name.log"
  fi
  if [ "$code" -ne 0 ]; then
    echo "$name: exit status $code"
    status=1
  fi
}

metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,sm__inst_executed.sum
metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active,launch__registers_per_thread

# Every allocation is the driver's own, so that an access past one is seen.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck synccheck; do
  step "$tool" "${SANITIZE_S:-120}" compute-sanitizer --tool "$tool" --error-exitcode 9 \
    "$python" -m pytest -q -m cuda -k test_options \
    tests/kernels/test_emulated_kernels.py tests/kernels/test_emulated_per_channel.py
done
unset PYTORCH_NO_CUDA_MEMORY_CACHING
step ncu "${PROFILE_S:-180}" ncu --clock-control none --kernel-name-base mangled \
  --kernel-name regex:mixnorm --csv --metrics \
  "$metrics" \
  "$python" tools/cuda_steps.py
echo "results: $results"
exit "$status"
