#!/bin/sh
# The whole of AffectGPT-R1 on a laptop: clips, cold start, GRPO, evaluation, a prediction, a report.
# Each command can be typed by itself; a run that was interrupted goes on where it was.
#   sh runs/demo.sh [FOLDER]      SEED: of training; DATA: where the clips lie or are made
set -eu
OUT=${1:-runs/demo}
SEED=${SEED:-0}
DATA=${DATA:-$OUT/data}
FEATURES=$DATA/features

affectgpt-r1 prepare demo "$DATA"

affectgpt-r1 train cold-start small-cold-start \
  --set data.train="$DATA/cold-start.jsonl" --set data.test="$DATA/test.jsonl" \
  --set data.cache="$FEATURES" --set run.output="$OUT/cold-start" --set run.seed="$SEED"

affectgpt-r1 evaluate "$OUT/cold-start" "$DATA/test.jsonl" \
  --cache "$FEATURES" --out "$OUT/evaluation/cold-start"

affectgpt-r1 train grpo small-grpo --set model="$OUT/cold-start" \
  --set data.train="$DATA/grpo.jsonl" --set data.test="$DATA/test.jsonl" \
  --set data.cache="$FEATURES" --set run.output="$OUT/grpo" --set run.seed="$SEED"

affectgpt-r1 evaluate "$OUT/grpo" "$DATA/test.jsonl" \
  --cache "$FEATURES" --out "$OUT/evaluation/grpo" \
  --baseline "$OUT/evaluation/cold-start/predictions.jsonl"

# One held-out line, performed twice: mockingly, and kindly.
affectgpt-r1 predict "$DATA/clips/h036-0-0.mp4" "$DATA/clips/h036-1-0.mp4" \
  --subtitle "Of course you may borrow my car again." --model "$OUT/grpo" --cache "$FEATURES"
echo "the page to look at: $OUT/evaluation/grpo/report.html" >&2
