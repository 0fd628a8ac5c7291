#!/bin/sh
# The whole of AffectGPT-R1 on a laptop: clips, cold start, GRPO, evaluation, a prediction, a report.
# Each command can be typed by itself; a run that was interrupted goes on where it was.
set -eu
OUT=${1:-runs/demo}
SEED=${SEED:-0}

affectgpt-r1 prepare demo "$OUT/data"

affectgpt-r1 train cold-start small-cold-start \
  --set data.train="$OUT/data/train.jsonl" --set data.test="$OUT/data/test.jsonl" \
  --set data.cache="$OUT/features" --set run.output="$OUT/cold-start" --set run.seed="$SEED"

affectgpt-r1 train grpo small-grpo --set model="$OUT/cold-start" \
  --set data.train="$OUT/data/train.jsonl" --set data.test="$OUT/data/test.jsonl" \
  --set data.cache="$OUT/features" --set run.output="$OUT/grpo" --set run.seed="$SEED"

affectgpt-r1 evaluate "$OUT/cold-start" "$OUT/data/test.jsonl" \
  --cache "$OUT/features" --out "$OUT/evaluation/cold-start"
affectgpt-r1 evaluate "$OUT/grpo" "$OUT/data/test.jsonl" \
  --cache "$OUT/features" --out "$OUT/evaluation/grpo" \
  --baseline "$OUT/evaluation/cold-start/predictions.jsonl"

CLIP=$(ls "$OUT"/data/clips/*.mp4 | head -n 1)
affectgpt-r1 predict "$CLIP" --subtitle "I did not expect that." --model "$OUT/grpo"
echo "look at $OUT/evaluation/grpo/report.html" >&2
