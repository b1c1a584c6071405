"""Which models each format of export_model.py can hold: a table in docs/.

Usage, from the root of the repository, with requirements/export.txt:

  python -m benchmarks.export_formats

Exports each model, with smaller layers and random weights, in each format, asks
its runtime for predictions of 32 videos of the sample data, and writes the
largest difference from the SavedModel's into the page, or why the format was
refused. The page has the models so far after each one.
"""

import os
import pathlib
import re
import tempfile
import textwrap
from importlib import metadata

import startup  # isort: skip
import keras
import numpy as np
from absl import flags, logging

import errors
import export_model
import models
from data_tools import sample_data
from docs.between_marks import put, replaced
from engine import export, export_formats, machine
from engine.data_files import find_files

FLAGS = flags.FLAGS

_PAGE = pathlib.Path(__file__).parents[1] / "docs" / "export.md"
_BEGIN = "<!-- python -m benchmarks.export_formats writes this table. -->"
_END = "<!-- The table ends here. -->"

# Layers are made as small as this, and videos this short, so that all models
# take minutes. Converters copy the weights many times.
_LARGEST_NUMBER = 16
_MAX_FRAMES = 20
_NUM_CLASSES = 25


def define_bench_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_list("models", [], "Models of the table; empty: all.")
  flags.DEFINE_string("page", str(_PAGE), "Page to write the table into.")


def _small(name: str, value):
  """A hyper-parameter, with 16 for each larger number of units."""
  if isinstance(value, int) and not isinstance(value, bool):
    return min(value, _LARGEST_NUMBER)
  if isinstance(value, str) and re.fullmatch(r"\d+(,\d+)*", value):
    sizes = [min(int(size), _LARGEST_NUMBER) for size in value.split(",")]
    return ",".join(map(str, sizes))
  # As many as there are features.
  if name == "lstm_cells" and value is None:
    return _LARGEST_NUMBER
  return value


def small_flags(name: str) -> dict:
  """A model's model_flags.json, with no size above 16."""
  given = models.resolve_hyperparameters(name)
  model_class = models.find_class_by_name(name)
  at_frame_level = model_class.__module__ != "video_level_models"
  prefix = "" if at_frame_level else "mean_"
  return {
    "model": name,
    "feature_names": f"{prefix}rgb,{prefix}audio",
    "feature_sizes": "1024,128",
    "frame_features": at_frame_level,
    "num_classes": _NUM_CLASSES,
    "max_frames": _MAX_FRAMES,
    "label_loss": "CrossEntropyLoss",
    "input_transform": model_class.input_transform,
    **{key: _small(key, value) for key, value in given.items()},
  }


def randomize(model) -> None:
  """Adds random numbers to all weights, also to those that begin as 0 or 1."""
  random = np.random.default_rng(1)
  for weight in model.weights:
    if weight.dtype != "float32":
      continue
    values = weight.numpy()
    values = values + random.normal(scale=0.1, size=values.shape)
    if "variance" in weight.path:
      values = abs(values) + 0.1
    weight.assign(values.astype(np.float32))


def _shown(exported: export_formats.Exported) -> str:
  """The difference of a format that was asked for videos, with one digit."""
  return f"{exported.difference:.0e}" if exported.difference else "0"


def try_formats(exporter: export.Exporter, batch: dict) -> dict[str, str]:
  """Exports a model in each format.

  Args:
    exporter: has the model.
    batch: see export_model.read_batch.

  Returns:
    {format: the largest difference, or the reason for a refusal}.
  """
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    exported = export_formats.export_saved_model(
      exporter, os.path.join(folder, export_model.SAVED_MODEL), batch
    )
    found[export_model.SAVED_MODEL] = _shown(exported)
    for name, form in export_formats.FORMATS.items():
      path = os.path.join(folder, form.path)
      try:
        exported = export_formats.export(name, exporter, path, batch)
        found[name] = _shown(exported)
      except errors.UserError as error:
        found[name] = str(error)
  return found


def make_table(results: dict[str, dict[str, str]]) -> str:
  """The Markdown of the table, with the reasons for refusals below it.

  Args:
    results: of try_formats, by model.
  """
  formats = [export_model.SAVED_MODEL, *export_formats.FORMATS]
  lines = [
    f"| model | {' | '.join(formats)} |",
    "|---" * (1 + len(formats)) + "|",
  ]
  reasons = []
  for model, found in results.items():
    cells = []
    for name in formats:
      text = found[name]
      if " " in text:  # no number
        if text not in reasons:
          reasons.append(text)
        text = f"no ({1 + reasons.index(text)})"
      cells.append(text)
    lines.append(f"| {model} | {' | '.join(cells)} |")
  notes = [f"{number}. {text}" for number, text in enumerate(reasons, 1)]
  return "\n".join([*lines, *([""] if notes else []), *notes])


def describe() -> str:
  """One sentence, in lines: the machine, the packages and the command."""
  here = machine.describe_machine()
  packages = ["tensorflow", "keras", "ai-edge-litert", "onnxruntime"]
  packages += ["tf2onnx", "openvino"]
  listed = ", ".join(
    f"{package} {metadata.version(package)}" for package in packages
  )
  return textwrap.fill(
    f"Made on {here['cores']} cores of {here['cpu']} with {listed}, by `python"
    " -m benchmarks.export_formats`.",
    80,
    break_on_hyphens=False,
  )


def main() -> None:
  """Tries all models and writes the table."""
  export_formats.require_packages(export_formats.FORMATS)
  page = pathlib.Path(FLAGS.page)
  replaced(page.read_text(), _BEGIN, _END, "")  # before the long work
  description = describe()
  results = {}
  for name in FLAGS.models or models.class_names():
    model_flags = small_flags(name)
    at_frame_level = model_flags["frame_features"]
    files = find_files(
      sample_data.pattern_or_sample_data("", "validate", at_frame_level), "page"
    )
    # Nothing of the model before is kept in memory.
    keras.backend.clear_session()
    exporter = export.Exporter(model_flags)
    randomize(exporter.model)
    results[name] = try_formats(
      exporter, export_model.read_batch(exporter, files)
    )
    logging.info("%s: %s", name, results[name])
    table = f"{make_table(results)}\n\n{description}"
    put(page, _BEGIN, _END, f"\n{table}\n")


if __name__ == "__main__":
  define_bench_flags()
  startup.run(main)
