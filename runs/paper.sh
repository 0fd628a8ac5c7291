#!/bin/sh
# The paper itself, in order: manifests, features, cold start, GRPO, nine test sets, the table.
# For who has the data and the GPUs, and changes the paths below, here or in the environment:
#   DATA=/data/emotion sh runs/paper.sh
#   DATA=/data/emotion GPUS=8 COLD_START=full-8gpu-cold-start GRPO=full-8gpu-grpo sh runs/paper.sh
# Interrupted wherever it was, the same command goes on there; when all is done, it does nothing
# again. A folder OUT is one run: for other settings, name another.
#
# First: `affectgpt-r1 doctor` names the weights that lack (Qwen2.5-7B-Instruct, CLIP ViT-L/14,
# chinese-hubert-large) and the commands that fetch them; `affectgpt-r1 lexicon download` fetches
# the authors' tables, by which the paper scores. Cold start is 300,000 updates, GRPO 125 on 1,000
# clips. Nobody has run this at full size yet; tests/test_paper.py runs it at nano size.
set -eu

# Where the sets lie, each as its authors hand it out: its own folder, or the one that holds it.
DATA=${DATA:-datasets}
MERCAPTIONPLUS=${MERCAPTIONPLUS:-$DATA} # mer2025-dataset
MER2025OV=${MER2025OV:-$DATA}           # mer2025-dataset
OVMERDPLUS=${OVMERDPLUS:-$DATA}         # ovmerdplus-process
MER2023=${MER2023:-$DATA}               # mer2023-dataset-process
MER2024=${MER2024:-$DATA}               # mer2024-dataset-process
MELD=${MELD:-$DATA}                     # meld-process
IEMOCAP=${IEMOCAP:-$DATA}               # iemocap-process
CMUMOSI=${CMUMOSI:-$DATA}               # cmumosi-process
CMUMOSEI=${CMUMOSEI:-$DATA}             # cmumosei-process
CHSIMS=${CHSIMS:-$DATA}                 # sims-process
CHSIMSV2=${CHSIMSV2:-$DATA}             # simsv2-process

# What is made.
OUT=${OUT:-runs/paper}
FEATURES=${FEATURES:-$OUT/features}

# At what size: a profile, and recipes of it (names, or YAML files of yours).
PROFILE=${PROFILE:-full}
COLD_START=${COLD_START:-full-cold-start}
GRPO=${GRPO:-full-grpo}
GPUS=${GPUS:-1}          # of training
DEVICE=${DEVICE:-cuda}   # of the frozen encoders
WORKERS=${WORKERS:-8}    # processes that read media

# How it is asked and scored. MODE=answer: the open-words question of all nine sets, answered at
# once; think: the reasoning first. DECODE=published: temperature 1, top-p 0.9, top-k 20; or greedy.
MODE=${MODE:-answer}
DECODE=${DECODE:-published}
LEXICON=${LEXICON:-mer2025}
MODELS=${MODELS:-cold-start grpo} # who is tested; grpo alone leaves out the comparison

TESTS="mer2023 mer2024 meld iemocap cmumosi cmumosei chsims chsimsv2 ovmerdplus"
MANIFESTS=$OUT/manifests

# prepare NAME FOLDER [OPTION...]: a set's manifest, unless it is there.
prepare() {
  name=$1 folder=$2
  shift 2
  [ -f "$MANIFESTS/$name.jsonl" ] ||
    affectgpt-r1 prepare "$name" "$folder" --out "$MANIFESTS/$name.jsonl" "$@"
}

# train PHASE RECIPE [OPTION...]
train() {
  if [ "$GPUS" -gt 1 ]; then
    torchrun --nproc_per_node="$GPUS" -m affectgpt_r1.cli train "$@"
  else
    affectgpt-r1 train "$@"
  fi
}

# 1. Manifests. All sets first, so that what lacks is told today and not in a week. Expected clips:
#    MER-Caption+ 31,327; MER2025-OV 1,000 of 1,200, as 200 are in the test set too; the nine test
#    sets 411, 1,169, 2,610, 1,241, 686, 4,659, 457, 1,034 and 532. No clip of OV-MERD+ is trained
#    on: what of MER-Caption+ is in it, if anything, is left out as well and counted.
affectgpt-r1 lexicon explain happy --lexicon "$LEXICON" >/dev/null
prepare ovmerdplus "$OVMERDPLUS"
prepare mer2023 "$MER2023"
prepare mer2024 "$MER2024"
prepare meld "$MELD"
prepare iemocap "$IEMOCAP"
prepare cmumosi "$CMUMOSI"
prepare cmumosei "$CMUMOSEI"
prepare chsims "$CHSIMS"
prepare chsimsv2 "$CHSIMSV2"
prepare mercaptionplus "$MERCAPTIONPLUS" --exclude "$MANIFESTS/ovmerdplus.jsonl"
prepare mer2025ov "$MER2025OV" --exclude "$MANIFESTS/ovmerdplus.jsonl"

# 2. Features, each clip's once. Damaged media are listed with the reason in failures.jsonl; training
#    leaves them out and counts them (data.max_unreadable), in the tests they are not answered.
for name in mercaptionplus mer2025ov $TESTS; do
  affectgpt-r1 encode "$MANIFESTS/$name.jsonl" --profile "$PROFILE" --cache "$FEATURES" \
    --device "$DEVICE" --batch-clips 16 --workers "$WORKERS"
done

# 3. Cold start: the description as thinking, the open labels as answer.
train cold-start "$COLD_START" --set run.output="$OUT/cold-start" --set data.cache="$FEATURES" \
  --set data.train="$MANIFESTS/mercaptionplus.jsonl" \
  --set data.test="$MANIFESTS/ovmerdplus.jsonl"

# 4. GRPO with accuracy and format as reward. The paper's other rewards and its length penalties
#    (rewards.length_penalty: p3) are for a recipe of yours: docs/rewards.md, docs/train.md.
train grpo "$GRPO" --set run.output="$OUT/grpo" --set data.cache="$FEATURES" \
  --set model="$OUT/cold-start" --set mode="$MODE" \
  --set lexicon.name="$LEXICON" --set lexicon.folder=null \
  --set data.train="$MANIFESTS/mer2025ov.jsonl" \
  --set data.test="$MANIFESTS/ovmerdplus.jsonl"

# 5. The nine test sets, before and after GRPO. Predictions lie in unfinished/ until a set is done,
#    and one that was cut is gone on with. `affectgpt-r1 evaluate MODEL MANIFEST` does one set by
#    itself, by its metric and with intervals.
for model in $MODELS; do
  said=$OUT/predictions/$model
  mkdir -p "$said" "$OUT/unfinished/$model"
  for name in $TESTS; do
    [ -f "$said/$name.jsonl" ] && continue
    affectgpt-r1 predict "$MANIFESTS/$name.jsonl" --model "$OUT/$model" --cache "$FEATURES" \
      --mode "$MODE" --decode "$DECODE" --workers "$WORKERS" \
      --out "$OUT/unfinished/$model/$name.jsonl"
    mv "$OUT/unfinished/$model/$name.jsonl" "$said/$name.jsonl"
  done
done

# 6. The tables: HIT for the four sets of one emotion, WAF for the four of sentiment, EW F for
#    OV-MERD+, and the plain mean of the nine. The paper: 79.48 after GRPO (AffectGPT 74.77,
#    Emotion-LLaMA 64.17, R1-Omni 59.61), each set at the checkpoint that is best on it; here it
#    is the last one, chosen without a look at the scores.
for model in $MODELS; do
  for form in markdown json; do
    affectgpt-r1 unibench "$OUT/predictions/$model"/*.jsonl --lexicon "$LEXICON" \
      --format "$form" >"$OUT/unibench-$model.$form"
  done
  printf '\n%s\n\n' "MER-UniBench, $model"
  cat "$OUT/unibench-$model.markdown"
done

# 7. What GRPO changed on OV-MERD+, paired over clips, with its interval; and a page to look at.
#    The paper, EW F: cold start 62.52; accuracy alone 63.35, accuracy and format 66.49 thinking
#    and 68.39 without; with a length penalty p1 67.44, p2 67.79, p3 68.05; all five rewards 59.53.
before=$OUT/predictions/cold-start/ovmerdplus.jsonl after=$OUT/predictions/grpo/ovmerdplus.jsonl
if [ -f "$before" ] && [ -f "$after" ]; then
  affectgpt-r1 score "$after" --compare "$before" --lexicon "$LEXICON" --parser reference \
    --format markdown >"$OUT/before-after.markdown"
  printf '\n%s\n\n' "OV-MERD+, after GRPO, and minus what was before"
  cat "$OUT/before-after.markdown"
  affectgpt-r1 report "$after" --baseline "$before" --labels "$MANIFESTS/ovmerdplus.jsonl" \
    --lexicon "$LEXICON" --out "$OUT/report.html"
fi
# To give the model away in one folder: affectgpt-r1 merge runs/paper/grpo FOLDER
