#!/usr/bin/env bash
# What `make demo` runs: sample data -> training -> evaluation -> predictions.
# Needs PYTHON, DEMO_DIR (an old run in it is deleted) and SAMPLE_DIR.
set -euo pipefail

say() { printf '\n== %s\n' "$*"; }

say "1/5 Sample data, in the formats of YouTube-8M: $SAMPLE_DIR"
"$PYTHON" -m data_tools.sample_data --output_dir="$SAMPLE_DIR"

say "2/5 Training StreamLstmModel on frame-level features: $DEMO_DIR"
"$PYTHON" train.py --model=StreamLstmModel --frame_features=True \
  --train_data_pattern="$SAMPLE_DIR/frame/train*.tfrecord" \
  --train_dir="$DEMO_DIR" --start_new_model \
  --lstm_layers=1 --batch_size=32 --num_epochs=8

say "3/5 Evaluating it on the validate split"
"$PYTHON" eval.py --train_dir="$DEMO_DIR" --run_once \
  --eval_data_pattern="$SAMPLE_DIR/frame/validate*.tfrecord"

say "4/5 Predicting the test split, which has no labels"
"$PYTHON" inference.py --train_dir="$DEMO_DIR" \
  --input_data_pattern="$SAMPLE_DIR/frame/test*.tfrecord" \
  --vocabulary="$SAMPLE_DIR/vocabulary.csv" \
  --output_file="$DEMO_DIR/predictions.csv"
echo "First lines of $DEMO_DIR/predictions.csv:"
head -n 4 "$DEMO_DIR/predictions.csv" | cut -c 1-78
echo "First lines of $DEMO_DIR/predictions_readable.csv:"
head -n 4 "$DEMO_DIR/predictions_readable.csv"

say "5/5 Scores on the validate split"
"$PYTHON" -m data_tools.label_frequencies \
  --train_data_pattern="$SAMPLE_DIR/frame/train*.tfrecord" \
  --eval_data_pattern="$SAMPLE_DIR/frame/validate*.tfrecord"
"$PYTHON" - "$DEMO_DIR" <<'EOF'
import glob, json, sys
with open(glob.glob(f"{sys.argv[1]}/eval/metrics-*.json")[0]) as file:
  scores = json.load(file)
print(
  f"StreamLstmModel         | Avg_Hit@1: {scores['avg_hit_at_one']:.3f} |"
  f" Avg_PERR: {scores['avg_perr']:.3f} | MAP: {scores['map']:.3f} |"
  f" GAP: {scores['gap']:.3f}"
)
EOF
echo
echo "Model, checkpoints and predictions are in $DEMO_DIR."
echo "Curves: ${PYTHON%python}tensorboard --logdir $DEMO_DIR"
