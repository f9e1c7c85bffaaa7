#!/usr/bin/env bash
# Measures one NVIDIA GPU in at most eight minutes, and prints a table at the end.
#
#   benchmarks/gpu.sh
#
# in a checkout that is installed with `pip install -e '.[gpu]'`; PYTHON=... is another
# interpreter than `python`. PyTorch is measured where it is installed with CUDA. Parts
# have limits of their own, and one for which no time is left is left out, and says so.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
found=$(mktemp)
trap 'rm -f "$found"' EXIT
end=$((SECONDS + 460)) # of eight minutes, with time for the table

part() { # LIMIT COMMAND...
  local limit=$1 left=$((end - SECONDS))
  shift
  ((left < limit)) && limit=$left
  echo
  if ((limit < 10)); then
    echo "Left out, as the eight minutes are over: $*"
    return
  fi
  echo "\$ $*"
  timeout --kill-after=5 "$limit" "$@"
  local code=$?
  ((code == 0)) || echo "Not finished (exit code $code) within its $limit seconds."
}

export TF_CPP_MIN_LOG_LEVEL=2
gpu() { part "$1" "$python" -m benchmarks.gpu "$2" --found "$found" "${@:3}"; }

"$python" -m benchmarks.gpu devices || exit 1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
for precision in float32 mixed_float16 mixed_bfloat16; do
  gpu 50 step --precision=$precision
done
for precision in mixed_bfloat16 float32 mixed_float16; do
  gpu 60 step --precision=$precision --xla --batches 256
done
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  gpu 30 torch --precision=mixed_float16 --batches 256 512
  gpu 20 torch --precision=mixed_bfloat16 --batches 256
else
  echo "PyTorch does not find a GPU here, or is not installed: left out."
fi
gpu 30 augment --batches 32
# To the last digits, for which TensorFloat-32 has too few.
NVIDIA_TF32_OVERRIDE=0 part 60 "$python" -m pytest -q tests/test_golden_trace.py \
  -k 'v1-1 or v2-1'
echo
"$python" -m benchmarks.gpu table --found "$found"
