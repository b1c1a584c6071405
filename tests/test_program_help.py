"""Tests of program_help: what --help and --version print."""

import re

import in_process
import pytest
from absl import flags

import losses
import models
from version import __version__

PROGRAMS = (
  "train",
  "eval",
  "inference",
  "segment_eval_inference",
  "export_model",
  "export_model_mediapipe",
  "data_tools.sample_data",
  "data_tools.download",
  "data_tools.label_frequencies",
)
SUBJECTS = ("Data", "Model", "Training", "Saving", "Output", "Devices")

# One flag each of absl.app, absl.flags, absl.logging and absl.testing.
OF_ABSL = ("run_with_pdb", "flagfile", "logtostderr", "test_srcdir", "absl")


def help_of(program, *words) -> str:
  code, text = in_process.call(program, *words)
  assert code == 0, text
  return text


def headings(text) -> list[str]:
  return re.findall(r"^(\S.*):$", text, re.MULTILINE)


def shown_flags(text) -> list[str]:
  """The flags that have their own lines."""
  return re.findall(r"^  --(?:\[no\])?(\w+)(?:=| \(|$)", text, re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_version(program):
  assert in_process.call(program, "--version") == (0, f"{__version__}\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_fits_a_terminal_and_shows_each_flag_once(program):
  text = help_of(program, "--help")
  lines = text.splitlines()
  assert max(map(len, lines)) <= 80
  assert not [line for line in lines if line != line.rstrip()]
  assert "\n\n\n" not in text
  listed = shown_flags(text)
  assert len(listed) == len(set(listed))
  assert listed[-1] == "verbosity"
  assert not [name for name in OF_ABSL if name in text]


@pytest.mark.parametrize(
  ("program", "expected"),
  [
    ("train", ["Data", "Model", "Training", "Saving", "Devices"]),
    ("eval", ["Data", "Model", "Output", "Devices"]),
    ("inference", ["Data", "Model", "Output", "Devices"]),
    ("export_model", ["Data", "Model", "Output"]),
  ],
)
def test_flags_come_by_subject(program, expected):
  text = help_of(program, "--help")
  assert [title for title in headings(text) if title in SUBJECTS] == expected
  assert headings(text)[-1] == "Log"


@pytest.mark.parametrize("word", ["-h", "-?", "--helpshort", "-help", "--help"])
def test_all_words_for_help(word):
  assert help_of("eval", word) == help_of("eval", "--help")


@pytest.mark.parametrize(
  "lines",
  [
    "  --[no]frame_features (default: False)\n      Records hold",
    "  --num_classes=N (default: 3862)\n      Classes",
    "  --max_steps=N\n      Steps",
    "  --clip_gradient_norm=X (default: 1.0)\n      Largest",
    "  --profile_steps=A,B,...\n      First",
    "  --train_data_pattern=TEXT\n      Glob",
    "  --learning_rate_schedule=exponential|cosine|constant"
    " (default: exponential)\n      How",
    "  --mixed_precision=bfloat16\n      Number",
    "  --verbosity=N (default: 0)\n      Lines",
  ],
)
def test_how_kinds_of_flags_are_shown(lines):
  assert lines in help_of("train", "--help")


def test_a_list_with_a_default():
  assert "  --levels=A,B,... (default: frame,video)\n" in help_of(
    "data_tools.sample_data", "--help"
  )


def test_the_named_model_and_loss_come_with_their_flags():
  text = help_of(
    "train", "--model=NetVladModel", "--label_loss=HingeLoss", "--help"
  )
  section = text.split("\nFlags of NetVladModel:\n")[1].split("\n\n")[0]
  taken = models.resolve_hyperparameters("NetVladModel")
  assert shown_flags(section) == sorted(taken)
  # The model's own defaults, if the flag has none.
  assert "--iterations=N (default: 300)" in section
  assert "--[no]moe_output_gating (default: True)" in section
  assert "Flags of HingeLoss:\n  --hinge_margin=X (default: 1.0)" in text
  model_class = models.find_class_by_name("NetVladModel")
  assert f"--batch_size=N (default: {model_class.batch_size})" in text
  assert (
    f"--base_learning_rate=X (default: {model_class.base_learning_rate})"
    in text
  )
  assert "gru_cells" not in text


def test_the_presets_of_the_named_model():
  text = help_of("train", "--model=NextVladModel", "--help")
  presets = ", ".join(
    sorted(models.find_class_by_name("NextVladModel").presets)
  )
  assert "published" in presets
  assert f"\nPresets of NextVladModel: {presets}.\n" in text
  text = help_of("train", "--model=CnnLstmModel", "--help")
  assert "\nPresets of CnnLstmModel: none.\n" in text


def test_a_model_without_flags_and_a_list_of_the_others():
  text = help_of("train", "--model=RandomFrameModel", "--help")
  assert "\nRandomFrameModel has no flags.\n" in text
  for name in (*models.class_names(), *losses.class_names()):
    assert name in text


def test_a_model_that_does_not_exist():
  text = help_of("train", "--model=NoModel", "--help")
  assert "received 'NoModel'. Did you mean MoeModel? Available:" in " ".join(
    text.split()
  )
  assert "\nTraining:\n" in text


@pytest.mark.parametrize("program", ["train", "eval"])
def test_helpfull_shows_the_flags_of_all_models(program):
  text = help_of(program, "--helpfull")
  modules = flags.FLAGS.flags_by_module_dict()
  for module in [*models.import_model_files(), losses]:
    for flag in modules.get(module.__name__, []):
      assert flag.name in shown_flags(text)
  assert "\nFlags of frame_models/clusters.py:\n" in text


def test_a_program_with_a_trained_model_only_names_what_it_knows_from_it():
  text = help_of("inference", "--help")
  known = text.split("Known from the trained model;")[1].split("\n\n")[0]
  for name in models.GRAPH_FLAGS:
    assert f"--{name}" in known
    assert name not in shown_flags(text)
  unused = text.split("\nAccepted without effect,")[1].split("\n\n")[0]
  for name in ("base_learning_rate", "run_once", "train_data_pattern"):
    assert f"--{name}" in unused


def test_a_wrong_value_with_help():
  code, text = in_process.call("train", "--num_classes=many", "--help")
  assert code == 2
  assert text.startswith("ERROR: Expected values that the flags take, received")
