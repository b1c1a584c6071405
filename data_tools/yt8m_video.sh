#!/usr/bin/env bash
# What `make yt8m-video` runs: downloads YouTube-8M's video-level data, trains
# two models, scores them, and prints a table. Started again, it goes on.
# Needs PYTHON; takes YT8M_DIR, SHARD, MIRROR and BASE_URL, see docs/download.md.
set -euo pipefail

YT8M_DIR=${YT8M_DIR:-$HOME/yt8m}
YT8M_DIR=${YT8M_DIR/#\~/$HOME}
SHARD=${SHARD:-1,1}
SHARD=${SHARD// /}
MIRROR=${MIRROR:-us}
MODELS=(LogisticModel MoeModel)

# A part has folders of its own: all files of a folder are trained on.
PART=
if [ "$SHARD" != 1,1 ]; then PART="_${SHARD/,/_of_}"; fi
DATA="$YT8M_DIR/2/video$PART"
RUNS="$YT8M_DIR/models/video$PART"

say() { printf '\n== %s\n' "$*"; }

for split in train validate; do
  say "Downloading 2/video/$split to $DATA"
  "$PYTHON" -m data_tools.download --partition="2/video/$split" \
    --mirror="$MIRROR" --base_url="${BASE_URL:-}" --shard="$SHARD" \
    --output_dir="$DATA"
done

# Commas and wildcards in the name of a folder are not those of a pattern.
LITERAL=$("$PYTHON" - "$DATA" <<'EOF'
import glob, sys
print(glob.escape(sys.argv[1]).replace(",", "\\,"))
EOF
)

# Stopped by Ctrl-C, train.py saves and ends as if all were well.
STOPPED=
trap 'STOPPED=130' INT
trap 'STOPPED=143' TERM

for model in "${MODELS[@]}"; do
  run="$RUNS/$model"
  if [ ! -e "$run.trained" ]; then
    say "Training $model: $run"
    began=$SECONDS
    status=0
    "$PYTHON" train.py --model="$model" --train_dir="$run" \
      --feature_names=mean_rgb,mean_audio --feature_sizes=1024,128 \
      --train_data_pattern="$LITERAL/train*.tfrecord" || status=$?
    mkdir -p "$RUNS"
    echo $((SECONDS - began)) >> "$run.seconds"
    status=${STOPPED:-$status}
    if [ "$status" != 0 ]; then exit "$status"; fi
    touch "$run.trained"
  fi
  if ! compgen -G "$run/eval/metrics-*.json" > /dev/null; then
    say "Evaluating $model"
    "$PYTHON" eval.py --train_dir="$run" --run_once \
      --eval_data_pattern="$LITERAL/validate*.tfrecord"
    if [ -n "$STOPPED" ]; then exit "$STOPPED"; fi
  fi
done

say "Scores on the validate split"
"$PYTHON" - "$RUNS" "${MODELS[@]}" <<'EOF'
import datetime, glob, json, sys
folder, *models = sys.argv[1:]
print("model         |   GAP |   mAP | Hit@1 |  PERR | time of training")
for model in models:
  path = f"{glob.escape(folder)}/{model}/eval/metrics-*.json"
  with open(max(glob.glob(path))) as file:
    scores = json.load(file)
  with open(f"{folder}/{model}.seconds") as file:
    seconds = sum(map(int, file))
  print(
    f"{model:13} | {scores['gap']:.3f} | {scores['map']:.3f} |"
    f" {scores['avg_hit_at_one']:.3f} | {scores['avg_perr']:.3f} |"
    f" {datetime.timedelta(seconds=seconds)}"
  )
print(f"on {scores['num_examples']:,} videos; the models are in {folder}")
EOF
