#!/usr/bin/env bash
# What `make demo-videos` runs: small video files -> features -> training ->
# predictions of other videos. It needs no weights and no network.
# Needs PYTHON and DEMO_DIR, a folder whose demo files are deleted.
set -euo pipefail

say() { printf '\n== %s\n' "$*"; }

mkdir -p "$DEMO_DIR"
rm -rf "$DEMO_DIR"/{clips,data,data.extracted,model,timeline}

say "1/4 Making small video files: $DEMO_DIR/clips"
"$PYTHON" -m data_tools.sample_clips --output_dir="$DEMO_DIR/clips"

say "2/4 Extracting features by the encoder that needs no weights"
"$PYTHON" -m data_tools.extract_features --videos="$DEMO_DIR/clips" \
  --labels="$DEMO_DIR/clips/labels.csv" --output_dir="$DEMO_DIR/data" \
  --encoder=random --frames_per_second=4 --splits=train:1

say "3/4 Training TransformerModel on them"
"$PYTHON" train.py --dataset_dir="$DEMO_DIR/data" --model=TransformerModel \
  --train_dir="$DEMO_DIR/model" --num_epochs=100 --base_learning_rate=0.001

say "4/4 Predicting videos that it has not seen"
"$PYTHON" inference.py --train_dir="$DEMO_DIR/model" \
  --videos="$DEMO_DIR/clips/new" --timeline --html="$DEMO_DIR/gallery.html" \
  --output_file="$DEMO_DIR/predictions.csv"
echo
echo "First lines of $DEMO_DIR/timeline.csv:"
head -n 4 "$DEMO_DIR/timeline.csv"
echo
echo "Open $DEMO_DIR/gallery.html in a browser."
