#!/usr/bin/env bash
# The whole GPU round in one call, in LIMIT seconds (470) on an H100: the tests marked gpu, parity of whole edits, timings
# of every provider, counters of the hot kernels, compute-sanitizer. Installs nothing and uses no network. Needs torch
# with CUDA, triton and pytest; uses diffusers (with the demo extra), ncu, compute-sanitizer and pytest-xdist if they are
# installed. A short round: LIMIT=250 SHAPES="sd15-64x64-f8 sd15-32x32-f8" PROVIDERS="eager sdpa_plain ours_triton".
#
#     benchmarks/gpu_session.sh            on a machine with a GPU; COMMIT=... names the code where git does not
#     DRY_RUN=1 benchmarks/gpu_session.sh  every step on a CPU, in Triton's interpreter at toy shapes, without limits
#
# A step that fails is recorded and the others still run; the exit status is 1 where a result was wrong or its check did
# not finish (tests, the gate before timings, memcheck). Rows go to measured.csv, edit_parity.csv and ncu.csv in
# benchmarks/results; where OUT is set, they and the logs are copied there. RESULTS and LIMIT (seconds) may be set too.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
PYTHON=${PYTHON:-python3}
DRY_RUN=${DRY_RUN:-}
LIMIT=${LIMIT:-$([[ $DRY_RUN ]] && echo 86400 || echo 470)}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TORCHINDUCTOR_COMPILE_THREADS=1 # one kernel a graph: a pool of compilers would cost more than it saves
logs=$(mktemp -d)
results=${RESULTS:-benchmarks/results}
device=cuda
suite=gpu
providers=() # all
[[ -z ${PROVIDERS:-} ]] || read -ra providers <<<"--providers $PROVIDERS"
shapes=() # all
[[ -z ${SHAPES:-} ]] || read -ra shapes <<<"--shapes $SHAPES"
edit=()
dtype=float16
workers=$(($(nproc) > 4 ? $(nproc) - 2 : 2))
if [[ $DRY_RUN ]]; then
    export TRITON_INTERPRET=1
    results=${RESULTS:-$logs/results} device=cpu suite=toy dtype=float32
    # the others are compiled for minutes
    providers=(--seconds 0 --providers eager sdpa_plain sdpa_cudnn ours_triton ours_sdpa sdpa_bias sdpa_low_rank xformers yardstick)
    edit=(--frames 2 --size 64 --steps 1)
fi
mkdir -p "$results"

left() { echo $((LIMIT - SECONDS > $1 ? LIMIT - SECONDS - $1 : 1)); } # seconds until $1 before the end

# step NAME SECONDS wrong|report COMMAND...: runs it under a time limit, its output in a log and its end on the screen
step() {
    local name=$1 seconds=$2 kind=$3 begin=$SECONDS status outcome
    shift 3
    [[ ! $DRY_RUN ]] || seconds=$LIMIT
    timeout --signal=INT --kill-after=10 "$seconds" "$@" >"$logs/$name.log" 2>&1
    status=$?
    echo "== $name"
    tail -n "${LINES_SHOWN:-25}" "$logs/$name.log"
    [[ $status == 0 || $kind == report ]] || touch "$logs/wrong"
    case $status in
        0) outcome="done" ;;
        124 | 137) outcome="TIMED OUT" ;;
        *) outcome="FAILED ($status)" ;;
    esac
    echo "$name: $outcome, $((SECONDS - begin)) s" >>"$logs/summary.txt"
}

# sanitizer TOOL SECONDS wrong|report. Without torch's cache every tensor is an allocation of its own, whose end is seen.
sanitizer() {
    if command -v compute-sanitizer >/dev/null; then
        LINES_SHOWN=8 step "$@" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
            --target-processes all "$PYTHON" -m benchmarks.sanitize
    else
        echo "$1: not run, compute-sanitizer is not installed" >>"$logs/summary.txt"
    fi
}

# Beside the tests, as nothing is timed yet: compilation, a shape a process, so that the timings find it on disk (what is
# not ready by the time limit compiles later), the matrix of calls, plain and under memcheck, and whole edits.
compile_ahead() {
    local seconds=130
    [[ ! $DRY_RUN ]] || seconds=$LIMIT
    "$PYTHON" -m benchmarks.measure "$suite" --list "${shapes[@]}" | timeout "$seconds" xargs -P $((workers / 2)) -I{} \
        "$PYTHON" -m benchmarks.measure "$suite" --compile-only --shapes {} --device "$device" --dtype "$dtype" \
        "${providers[@]}"
}
edits() {
    if "$PYTHON" -c 'import av, cv2, diffusers, transformers' 2>/dev/null; then
        step edit 120 wrong "$PYTHON" -W ignore -m benchmarks.edit_parity --device "$device" \
            --out "$results/edit_parity.csv" "${edit[@]}"
    else
        echo "edit: not run, it needs diffusers, transformers, av and opencv" >>"$logs/summary.txt"
    fi
}
check_memory() {
    step sanitize 110 wrong "$PYTHON" -m benchmarks.sanitize --device "$device"
    [[ $DRY_RUN ]] || sanitizer memcheck 120 wrong
}

step environment 60 report "$PYTHON" -c "
import torch
from fame_accel.bench.environment import environment
print(environment(torch.device('$device')))"

compile_ahead >"$logs/compile.log" 2>&1 &
check_memory >"$logs/memory.log" 2>&1 &
edits >"$logs/edits.log" 2>&1 &
# the files that hold them: others import packages that are not needed here
pytest=("$PYTHON" -m pytest -q -m gpu -p no:cacheprovider)
files=(tests/core/test_{attention,layout,videograin}.py tests/bindings/test_operators.py
    tests/kernels/test_short_sequences.py tests/tools/test_{doctor,tune}.py)
if [[ $DRY_RUN ]]; then
    LINES_SHOWN=2 step tests 60 wrong "${pytest[@]}" --collect-only "${files[@]}" tests/core/test_offsets.py
elif "$PYTHON" -c 'import xdist' 2>/dev/null; then
    step tests 150 wrong "${pytest[@]}" -ra -n "$workers" "${files[@]}"
    wait
    step far_offsets 40 wrong "${pytest[@]}" -ra -n 6 tests/core/test_offsets.py # 9 GiB each
else
    step tests 150 wrong "${pytest[@]}" -ra "${files[@]}" tests/core/test_offsets.py
fi
wait
cat "$logs/memory.log" "$logs/edits.log"

budget=$(left 60)
LINES_SHOWN=90 step timings $((budget + 15)) wrong "$PYTHON" -m benchmarks.measure "$suite" --device "$device" \
    --dtype "$dtype" --budget-seconds "$budget" --out "$results/measured.csv" "${shapes[@]}" "${providers[@]}"

if [[ $DRY_RUN ]]; then
    step profile 60 report "$PYTHON" -m benchmarks.profile_kernels --case toy --device cpu
else
    LINES_SHOWN=8 step profile "$(left 0)" report "$PYTHON" -m benchmarks.profile_kernels --out "$results/ncu.csv" \
        --raw "$logs" --seconds 18
    # Reported, not failed on: Triton's reductions write equal values twice, which racecheck takes for hazards
    # (triton-lang/triton#7264).
    sanitizer racecheck "$(left 0)" report
fi

echo "== summary, $SECONDS s"
cat "$logs/summary.txt"
if [[ -n ${OUT:-} ]]; then # few files: the logs as one
    (cd "$logs" && tail -n +1 -- *.log summary.txt) >"$OUT/session.log"
    for file in "$results/measured.csv" "$results/edit_parity.csv" "$results/ncu.csv" "$logs"/ncu_*.csv; do
        [[ -f $file ]] && cp "$file" "$OUT"
    done
fi
echo "results in $results, logs in $logs"
[[ ! -e $logs/wrong ]]
