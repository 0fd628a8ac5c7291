#!/usr/bin/env bash
# Everything that only a GPU can tell, in one call of some eight minutes, the worthiest first.
#   bash benchmarks/gpu.sh OUT [SECONDS]      TINY=tiny: the same steps at tiny shapes, anywhere
# Each step has a limit, and none keeps the next from running. OUT gets summary.txt, log.txt, and the
# figures as JSON; the summary is printed last.
set -u
cd "$(dirname "$0")/.."
OUT=$(realpath "$1") BUDGET=${2:-500} TINY=${TINY:-}
export PYTHONPATH=$PWD/src:$PWD/demo:$PWD/reproduction:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1
# Looking whether there is a GPU must not spoil processes that are forked later.
export PYTORCH_NVML_BASED_CUDA_CHECK=1
PYTHON=${PYTHON:-python3}
SUMMARY=$OUT/summary.txt LOG=$OUT/log.txt
: >"$SUMMARY" >"$LOG"
say() { echo "[$SECONDS s] $*" | tee -a "$SUMMARY"; }

# The weights are 18 GB: memory is quicker than a disk, where there is enough of it.
free_shm=$(df --output=avail -B1 /dev/shm 2>/dev/null | tail -1)
WORK=$(mktemp -d $([ "${free_shm:-0}" -gt 30000000000 ] && echo -p /dev/shm))
trap 'rm -rf "$WORK"' EXIT
full_size=("$PYTHON" benchmarks/full_size.py "$WORK" ${TINY:+--tiny} --out "$OUT/full.json")

least() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }

# step NAME LIMIT COMMAND...: what it prints goes into the summary, what it complains of into the log.
# @ in the command stands for the seconds that it may take by its own clock, and end in good order.
step() {
  local name=$1 left=$((BUDGET - SECONDS)) began=$SECONDS status=0 limit
  limit=$(least "$2" "$left")
  shift 2
  if [ "$limit" -lt 20 ]; then say "$name: no time left"; return; fi
  echo "=== $name" >>"$LOG"
  timeout -s INT -k 8 "$limit" "${@//@/$((limit - 12))}" >>"$SUMMARY" 2>>"$LOG" || status=$?
  say "$name: status $status, $((SECONDS - began)) s"
}
full() { step "full $1" "$2" "${full_size[@]}" --steps "$1" --limit @ --quiet; }
against_trl() {
  step "$1" "$3" "$PYTHON" benchmarks/grpo_step.py --setting "${TINY:-$1}" --limit "$2" --budget @ \
    --out "$OUT/$1.json"
}

"$PYTHON" -c 'import platform, torch, transformers, accelerate, peft, trl
gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
print(gpu, "Python", platform.python_version(), *(f"{m.__name__} {m.__version__}" for m in (torch, transformers, accelerate, peft, trl)))' 2>>"$LOG" | tee -a "$SUMMARY"

# Written, and the clips encoded, while the tests run: neither is compared with anything.
OMP_NUM_THREADS=4 "${full_size[@]}" --steps weights encode --limit 110 --quiet 2>>"$LOG" &
writing=$!
OMP_NUM_THREADS=1 SUMMARY=$LOG step tests 110 "$PYTHON" -m pytest -vv -n "${WORKERS:-8}" -p no:cacheprovider \
  --no-header --tb=short -o junit_family=xunit1 --junitxml="$WORK/tests.xml" \
  -k "device or trl or no_number or later_update" \
  tests/test_device.py tests/test_grpo_against_trl.py tests/fault/test_faults.py
grep -E "passed|failed|tests: status" "$LOG" | tail -2 >>"$SUMMARY"
if [ -s "$WORK/tests.xml" ]; then
  grep -oE 'testcase [^>]*|property name=[^/]*|(failure|error) message="[^"]{0,300}' "$WORK/tests.xml" | sed -E \
    -e 's/testcase .*name="([^"]*)".*/\1/' -e 's/property name="([^"]*)" value="([^"]*)".*/  \1: \2/' \
    -e 's/(failure|error) message="/  FAILED: /' >>"$SUMMARY"
else # it was cut
  grep -oE '(PASSED|FAILED|ERROR) tests[^ ]*' "$LOG" >>"$SUMMARY"
fi
timeout "$(least 60 $((BUDGET > SECONDS ? BUDGET - SECONDS : 1)))" tail --pid=$writing -f /dev/null ||
  kill $writing
say "weights and features are there"

against_trl gpu-short 45 130
against_trl gpu-long 110 150
full cold-start 90
full grpo 110
full predict 80
full grpo-long 130
against_trl gpu-wide 80 150

"${full_size[@]}" --steps >>"$SUMMARY" 2>>"$LOG"
for log in "$WORK"/*.log; do echo "=== $log" && tail -c 3000 "$log"; done >>"$LOG"
echo "---- summary; what was complained of is in log.txt"
cat "$SUMMARY"
