"""Does what docs/porting_a_fork.md says, in a copy of the checkout.

The code comes from the page: the original, the diffs and the replaced part,
which give the file after each step. All steps run in one process of the copy.
"""

import json
import re
import shlex
import textwrap

import pytest
from checkout_copy import REPOSITORY, CheckoutCopy
from make_records import SMALL_NUM_CLASSES, small_frames, write_records

# They share what one process of the copy does, half a minute.
pytestmark = pytest.mark.slow

PAGE = (REPOSITORY / "docs" / "porting_a_fork.md").read_text()
MODEL_FILE = "frame_models/gated_attention.py"
NAME = "GatedAttentionModel"

# Small data, which needs different flags than those of the page.
SMALL = [
  "--feature_sizes=3,2",
  f"--num_classes={SMALL_NUM_CLASSES}",
  "--batch_size=4",
  "--num_epochs=1",
  "--gated_attention_hidden_size=6",
  "--xla=False",
]

# Runs in the copy. Takes [[name, text of the model file or "", action,
# *arguments]], writes {name: outcome} to the file of its first argument.
SCRIPT = """
import importlib, json, pathlib, sys
import in_process, models, pytest
from absl.flags import FLAGS

MODULE = "frame_models.gated_attention"
path = pathlib.Path("frame_models/gated_attention.py")


class Outcomes(dict):
  def pytest_runtest_logreport(self, report):
    if report.when == "call":
      self[report.nodeid] = report.outcome


def load(text):
  path.write_text(text)
  importlib.invalidate_caches()
  if MODULE in sys.modules:
    for flag in list(FLAGS.flags_by_module_dict()[MODULE]):
      delattr(FLAGS, flag.name)
    importlib.reload(sys.modules[MODULE])
  else:
    models.import_model_files()


def act(action, *arguments):
  if action == "import":
    return None
  if action == "pytest":
    outcomes = Outcomes()
    sys.modules.pop("test_model_contract", None)  # it lists the models
    options = ["-q", "-n0", "-p", "no:cacheprovider"]
    pytest.main([*options, *arguments], plugins=[outcomes])
    return outcomes
  if action == "exec":
    names = {}
    exec(arguments[0], names)
    return names["result"]
  return getattr(in_process, action)(*arguments)


results = {}
for name, text, *action in json.loads(sys.argv[2]):
  try:
    if text:
      load(text)
    results[name] = act(*action)
  except ImportError as error:
    results[name] = f"{type(error).__name__}: {error}"
pathlib.Path(sys.argv[1]).write_text(json.dumps(results))
"""

# The equations of the page in NumPy; the largest difference from the model.
EQUATIONS = """
import numpy as np
from small_models import *

model = build(
  "GatedAttentionModel", "3,2", 4, gated_attention_size=3,
  gated_attention_heads=2, gated_attention_hidden_size=6, moe_num_mixtures=2,
)
weights = random_weights(model) | random_statistics(model)
frames = random_frames(NUM_FRAMES, 8, 5)
expected = []
for x in valid_parts(frames, NUM_FRAMES):
  x = normalized(x, weights, "input_bn")
  gated = np.tanh(dense(x, weights, "tanh"))
  gated = gated * sigmoid(dense(x, weights, "sigmoid"))
  pooled = softmax(dense(gated, weights, "scores"), axis=0).T @ x
  h = dense(pooled.reshape(-1), weights, "hidden")
  h = relu(normalized(h, weights, "hidden_bn"))
  gates = dense(h, weights, "hidden_gating_dense")
  h = h * sigmoid(normalized(gates, weights, "hidden_gating_bn"))
  shares = softmax(dense(h, weights, "gates").reshape(4, 3))[:, :2]
  experts = sigmoid(dense(h, weights, "experts").reshape(4, 2))
  expected.append((shares * experts).sum(axis=1))
difference = predict(model, frames, NUM_FRAMES) - expected
penalties = sum(float(loss) for loss in model.losses)
squares = np.sum(weights["hidden/kernel"] ** 2)
result = [float(abs(difference).max()), penalties, float(squares)]
"""


# --------------------------------------------------------------------------
# What is on the page


def section(number) -> str:
  """The text of a step; of the original with 0, of the last part with 7."""
  return re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:][number]


def block(number, language) -> str:
  """The only code block of a language in a section."""
  (found,) = re.findall(
    rf"^```{language}\n(.*?)^```", section(number), re.DOTALL | re.MULTILINE
  )
  return found


def body(number) -> str:
  """The lines of create_model that a section shows without their indent."""
  return textwrap.indent(block(number, "python"), "    ")


def promises(number) -> list[str]:
  """The lines of output that a section shows."""
  return block(number, "text").splitlines()


def assert_promised(promise, text):
  """Checks that a text holds the parts of a line, between dots, in order."""
  position = 0
  for part in promise.split(" ... "):
    assert part in text[position:], (part, text)
    position = text.index(part, position) + len(part)


def commands() -> list[list[str]]:
  """The arguments of the commands at the end."""
  lines = block(7, "").replace("\\\n", " ").splitlines()
  return [shlex.split(line) for line in lines]


def replaced(text, *pairs) -> str:
  """A text with parts replaced, each of which must be in it."""
  for old, new in pairs:
    assert old in text, old
    text = text.replace(old, new)
  return text


def with_other_end(text, end) -> str:
  """The model with other lines instead of its return statement."""
  return text[: text.index("    return models.classify(")] + end


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
  return CheckoutCopy(tmp_path_factory.mktemp("port") / "checkout")


@pytest.fixture(scope="module")
def texts(copy):
  """The model file after each step, step 0 being the original."""
  path = copy.folder / MODEL_FILE
  path.write_text(block(0, "python"))
  found = [path.read_text()]
  for number in range(1, 6):
    if number == 3:
      text = path.read_text()
      kept = text[: text.index("    max_frames = ")]
      kept = replaced(
        kept, ("import math\n\n", ""), ("import tensorflow as tf\n", "")
      )
      path.write_text(kept + body(3))
    else:
      header = f"--- a/{MODEL_FILE}\n+++ b/{MODEL_FILE}\n"
      copy.apply(header + block(number, "diff"))
    found.append(path.read_text())
  return found


@pytest.fixture(scope="module")
def outcomes(copy, texts, tmp_path_factory):
  """The outcome of each step, by name."""
  folder = tmp_path_factory.mktemp("outcomes")
  files = write_records(
    folder / "frames.tfrecord",
    [small_frames(f"v{n}", 2 + n, [n % SMALL_NUM_CLASSES]) for n in range(8)],
  )
  final = texts[5]
  logits, returned = body(6).splitlines(keepends=True)

  def train(train_dir, *more):
    (command,) = [words for words in commands() if "train.py" in words]
    return [
      "train",
      *command[2:],
      *SMALL,
      f"--train_data_pattern={files}",
      f"--train_dir={folder / train_dir}",
      *more,
    ]

  def evaluate(train_dir):
    flags = [f"--train_dir={folder / train_dir}", "--run_once"]
    return ["eval", *flags, f"--eval_data_pattern={files}"]

  steps = [
    ["original", texts[0], "import"],
    ["get_shape", texts[2], "run_into_error", *train("none")],
    [
      "tf function",
      replaced(texts[2], (".get_shape().as_list()", ".shape")),
      "run_into_error",
      *train("none"),
    ],
    [
      "padding counts",
      texts[3],
      "pytest",
      "tests/test_model_contract.py",
      f"-k={NAME} and padding",
    ],
    [
      "reads FLAGS",
      replaced(
        final,
        ("    gated_attention_heads=4,\n", ""),
        (
          "      gated_attention_heads,\n",
          "      flags.FLAGS.gated_attention_heads,\n",
        ),
      ),
      "run",
      *train("reads_flags"),
    ],
    ["forgets FLAGS", "", "run_into_error", *evaluate("reads_flags")],
    [
      "own end",
      with_other_end(final, logits + returned),
      "run",
      *train("own_end", "--mixed_precision=bfloat16", "--max_steps=1"),
    ],
    [
      "logits",
      with_other_end(final, logits + '    return {"predictions": logits}\n'),
      "run_into_error",
      *train("logits"),
    ],
    [
      "half",
      with_other_end(
        final,
        replaced(logits, ("vocab_size,", 'vocab_size, activation="sigmoid",'))
        + '    return {"predictions": logits}\n',
      ),
      "run_into_error",
      *train("half", "--mixed_precision=bfloat16"),
    ],
    ["trained", final, "run", *train("final")],
    ["evaluated", "", "run", *evaluate("final")],
    [
      "predicted",
      "",
      "run",
      "inference",
      f"--train_dir={folder / 'final'}",
      f"--input_data_pattern={files}",
      f"--output_file={folder / 'predictions.csv'}",
    ],
    ["exported", "", "run", "export_model", f"--train_dir={folder / 'final'}"],
    ["equations", "", "exec", EQUATIONS],
    [
      "contract",
      "",
      "pytest",
      "tests/test_model_contract.py",
      "tests/test_rooms.py",
      "tests/docs/test_make_flags_page.py",
      "tests/test_readme.py",
      f"-k={NAME} or gated_attention or make_flags_page or test_each_model",
    ],
  ]
  results = folder / "results.json"
  finished = copy.run_python("-c", SCRIPT, results, json.dumps(steps))
  assert finished.returncode == 0, finished.stdout
  return {**json.loads(results.read_text()), "folder": folder}


# --------------------------------------------------------------------------
# What the page says


def test_the_original_is_python_and_cannot_be_imported(texts, outcomes):
  compile(texts[0], MODEL_FILE, "exec")
  (promise,) = promises(1)
  assert outcomes["original"] == promise


def test_a_value_read_from_flags_is_not_kept(outcomes):
  (promise,) = promises(2)
  assert_promised(promise, outcomes["forgets FLAGS"])


def test_symbolic_tensors_are_not_for_tensorflow(texts, outcomes):
  for promise, name in zip(
    promises(3), ("get_shape", "tf function"), strict=True
  ):
    assert_promised(promise, outcomes[name])
  line = (
    texts[2]
    .splitlines()
    .index("    max_frames = model_input.get_shape().as_list()[1]")
  )
  assert f"gated_attention.py:{line + 1}: " in outcomes["get_shape"]


def test_padding_is_found_to_count(outcomes):
  (promise,) = promises(4)
  found = outcomes["padding counts"]
  failed = [name for name, outcome in found.items() if outcome == "failed"]
  assert [f"FAILED {name}" for name in failed] == [promise]
  assert len(found) == 3


def test_what_the_model_returns(outcomes):
  for promise, name in zip(promises(6), ("logits", "half"), strict=True):
    assert_promised(promise, outcomes[name])
  assert "Done at step 1" in outcomes["own end"]


def test_the_model_keeps_the_contract(copy, outcomes):
  found = outcomes["contract"]
  assert set(found.values()) == {"passed"}
  assert sum(f"[{NAME}]" in name for name in found) >= 16
  assert sum("[gated_attention_" in name for name in found) == 6
  assert (
    f"tests/test_rooms.py::test_files_and_functions_are_short[{MODEL_FILE}]"
    in found
  )
  for test in ("make_docs_writes", "test_each_model_has_a_section"):
    assert any(test in name for name in found)
  assert list(copy.changes()) == [MODEL_FILE]
  copy.check_style()


def test_the_model_computes_the_equations(outcomes):
  difference, penalties, squares = outcomes["equations"]
  assert difference < 1e-5
  # In addition to the 1e-6 of the hidden layer, the 1e-8 of the classifier.
  assert penalties == pytest.approx(0.5e-6 * squares, rel=0.2)


def test_the_commands_run(outcomes):
  assert [words[:2] for words in commands()] == [
    ["python", "-m"],
    ["python", "train.py"],
    ["python", "eval.py"],
    ["python", "inference.py"],
    ["python", "export_model.py"],
    ["make", "docs"],
  ]
  folder = outcomes["folder"]
  kept = json.loads((folder / "final" / "model_flags.json").read_text())
  assert kept["gated_attention_heads"] == 2
  assert kept["gated_attention_hidden_size"] == 6
  assert kept["video_level_classifier_model"] == "MoeModel"
  assert kept["moe_num_mixtures"] == 2
  assert "epoch/eval number 2" in outcomes["evaluated"]
  assert len((folder / "predictions.csv").read_text().splitlines()) == 9
  assert (folder / "final" / "export" / "step_2" / "saved_model.pb").exists()
  assert "step_2" in outcomes["exported"]
