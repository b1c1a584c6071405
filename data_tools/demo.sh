#!/usr/bin/env bash
# What `make demo` runs: sample data -> training -> evaluation -> predictions.
# Needs PYTHON and DEMO_DIR (an old run in it is deleted).
set -euo pipefail

say() { printf '\n== %s\n' "$*"; }

say "1/4 Training StreamLstmModel on the built-in sample data: $DEMO_DIR"
"$PYTHON" train.py --model=StreamLstmModel --frame_features=True \
  --train_dir="$DEMO_DIR" --start_new_model

say "2/4 Evaluating it on the validate split"
"$PYTHON" eval.py --train_dir="$DEMO_DIR" --run_once

say "3/4 Predicting the test split, which has no labels"
"$PYTHON" inference.py --train_dir="$DEMO_DIR" \
  --output_file="$DEMO_DIR/predictions.csv"
echo "First lines of $DEMO_DIR/predictions.csv:"
head -n 4 "$DEMO_DIR/predictions.csv" | cut -c 1-78
echo "First lines of $DEMO_DIR/predictions_readable.csv:"
head -n 4 "$DEMO_DIR/predictions_readable.csv"

say "4/4 Scores on the validate split"
"$PYTHON" -m data_tools.label_frequencies
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
