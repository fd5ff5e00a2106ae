#!/usr/bin/env bash
# The whole GPU round in one call, from the repository root: tests, then timings against eager, appended to
# benchmarks/results/compare.csv. Installs nothing and takes no network. Needs torch with CUDA or ROCm, triton, pytest.
#
#     benchmarks/gpu_session.sh            on a machine with a GPU
#     DRY_RUN=1 benchmarks/gpu_session.sh  toy shapes in Triton's interpreter, to find mistakes without one
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1

if [[ -n ${DRY_RUN:-} ]]; then
    export TRITON_INTERPRET=1
    out=$(mktemp -d)/compare.csv
    "$PYTHON" -m benchmarks.compare --backend triton --device cpu --frames 2 --size 6 --heads 1 --head-dim 40 \
        --repeats 1 --out "$out"
    echo "dry run done: $(wc -l <"$out") lines of CSV"
    exit
fi

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$PYTHON" -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'

echo "== correctness"
"$PYTHON" -m pytest -q -ra -m gpu tests

echo "== timings: Stable Diffusion 1.5 at 512 x 512, 8 frames (eager needs N x N, so one layer size at a time)"
for shape in "32 8 80" "16 8 160" "8 8 160"; do
    read -r size heads head_dim <<<"$shape"
    "$PYTHON" -m benchmarks.compare --backend triton --device cuda --dtype float16 --frames 8 \
        --size "$size" --heads "$heads" --head-dim "$head_dim" --repeats 20
done
"$PYTHON" -m benchmarks.compare --backend triton --device cuda --dtype float16 --frames 8 \
    --size 64 --heads 2 --head-dim 40 --repeats 10
