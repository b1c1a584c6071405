"""The report of compare_frameworks, as Markdown and as a page.

A report is a dict, as it stands in report.json; see compare_frameworks.report.
"""

from collections.abc import Sequence

from engine.files import text_written_aside
from engine.machine import machine_text
from reports import framework_comparison as comparison
from reports import markdown
from reports.markdown import escaped
from reports.templating import REPORT_REQUIREMENTS, make_environment

_NAMES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
_GIB = 2**30


def framework(result: dict) -> str:
  """What a result is called: the framework, and its processes if several."""
  name = _NAMES[result["backend"]]
  number = result["processes"]
  return name if number == 1 else f"{name}, {number} processes"


def _memory(size: int | None) -> str:
  return "" if size is None else f"{size / _GIB:.2f}"


def common_steps(results: Sequence[dict]) -> int:
  """The measured steps that all results of a model have."""
  return min(len(result["losses"]) for result in results)


def speed_table(report: dict) -> list[list[str]]:
  """What each framework needs for each model; the first row is the header.

  The last two columns are words. Without a GPU, its column is left out.
  """
  of_gpu = ["GPU, GiB"] if _has_gpu(report) else []
  rows = [
    [
      *("model", "framework", "videos/s", "first step, s", "of it step 1, s"),
      *("memory, GiB", *of_gpu, "loss", "step", "device"),
    ]
  ]
  for model in report["models"]:
    steps = common_steps(model["results"])
    for result in model["results"]:
      loss = comparison.smoothed(result["losses"][:steps])[-1]
      rows.append(
        [
          model["name"],
          framework(result),
          f"{result['videos_per_second']:.4g}",
          f"{result['start_seconds']:.1f}",
          f"{result['step_seconds'][0]:.2f}",
          _memory(result["peak_memory_bytes"]),
          *([_memory(result["peak_gpu_bytes"])] if of_gpu else []),
          f"{loss:.4g} ({steps})",
          result["how"],
          result["device"],
        ]
      )
  return rows


def _has_gpu(report: dict) -> bool:
  return any(
    result["peak_gpu_bytes"] is not None
    for model in report["models"]
    for result in model["results"]
  )


def agreement_table(report: dict) -> list[list[str]]:
  """How far the frameworks differ; the first row is the header."""
  last = f"loss {report['check_steps']}"
  rows = [
    ["model", "compared", "outputs", "gradients", "losses", last, "agree"]
  ]
  for model in report["models"]:
    for found in model["agreements"]:
      rows.append(
        [
          model["name"],
          f"{found['one']} and {found['other']}",
          *(
            f"{found[name]:.1e}" for name in ("outputs", "gradients", "losses")
          ),
          " and ".join(f"{loss:.6g}" for loss in found["last_losses"]),
          "yes" if found["holds"] else "NO",
        ]
      )
  return rows


def run_table(report: dict) -> list[list[str]]:
  """Where each figure is from; the first row is the header."""
  rows = [["model", "framework", "began", "versions", "commit", "machine"]]
  for model in report["models"]:
    for result in model["results"]:
      versions = ", ".join(
        f"{name} {version}" for name, version in result["versions"].items()
      )
      rows.append(
        [
          model["name"],
          framework(result),
          result["began"],
          versions,
          result["commit"] or "",
          machine_text(result["machine"]),
        ]
      )
  return rows


def data_lines(report: dict) -> list[str]:
  """What each model was trained on, and how."""
  return [
    f"{model['name']}: {model['parameters']:,} weights; batches of"
    f" {model['batch_size']} videos"
    + (f" of {model['num_frames']} frames" if model["num_frames"] else "")
    + f", learning rate {model['learning_rate']:g}; {model['videos']:,} videos"
    f" in {len(model['files'])} files, {model['pattern']}, hash of names and"
    f" sizes {model['hash']}."
    for model in report["models"]
  ]


def notes(report: dict) -> list[str]:
  """What a reader of the tables should know."""
  limits = (
    f"{comparison.MOST_OUTPUTS:g} (outputs), {comparison.MOST_GRADIENTS:g}"
    f" (gradients) and {comparison.MOST_LOSSES:g} (losses)"
  )
  found = [
    "All frameworks train the same class of this project, from the same"
    " weights, on the same batches, with Adam by the same equations (Kingma and"
    " Ba 2015, algorithm 1, epsilon outside the root).",
    "Agreement: with dropout off, the predictions of the first step, its"
    " gradients relative to the largest number of each weight's, and the losses"
    f" of {report['check_steps']} steps relative to the loss, of which the last"
    f" ones are shown, at {comparison.CHECK_SHARE:g} of the learning rate. They"
    f" agree up to {limits}.",
    "videos/s: of the median step after the first one. A step ends when its"
    " loss is known; reading the records is not counted. first step: seconds"
    " from the start of the program to the end of the first step; of it step 1:"
    " those of the step itself, which also compiles. memory: the"
    " peak of all processes. loss: the mean of the last 10 of the steps that"
    " all frameworks did, in brackets; dropout draws other numbers in each"
    " framework.",
    "On a CPU, TensorFlow runs this project's LSTMs and GRUs, which skip the"
    " padding of videos, where XLA does not compile the step; the other"
    " frameworks run Keras's loops over all frames.",
  ]
  return found + [
    f"{model['name']}: {note}"
    for model in report["models"]
    for note in model["notes"]
  ]


# --------------------------------------------------------------------------
# Markdown


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
  """A table of any text in Markdown, whose first row is the header."""
  head, *others = (list(map(escaped, row)) for row in rows)
  return markdown.markdown_table(head, others, words=len(head)).strip()


def make_markdown(report: dict) -> str:
  """The report as Markdown."""
  parts = [
    "# The same models in several frameworks",
    f"Made by `{report['command']}`.",
    markdown_table(speed_table(report)),
    "## Agreement",
    markdown_table(agreement_table(report)),
    "## Data",
    "\n".join(f"- {escaped(line)}" for line in data_lines(report)),
    "## Notes",
    "\n".join(f"- {escaped(note)}" for note in notes(report)),
    "## Runs",
    markdown_table(run_table(report)),
    "The commands:",
    "```\n" + "\n".join(commands(report)) + "\n```",
  ]
  return "\n\n".join(parts) + "\n"


def commands(report: dict) -> list[str]:
  """The commands that the figures are from, each once."""
  found = [
    result["command"]
    for model in report["models"]
    for result in model["results"]
  ]
  return list(dict.fromkeys(found))


# --------------------------------------------------------------------------
# The page


def _charts(model: dict) -> list[tuple[str, str, str]]:
  """The title, the address and the text of each chart of a model."""
  from reports import charts  # needs matplotlib

  checks = {
    framework(result): (
      list(range(1, 1 + len(result["check_losses"]))),
      result["check_losses"],
    )
    for result in model["results"]
  }
  measured = {
    framework(result): (
      comparison.seconds_after(result),
      comparison.smoothed(result["losses"]),
    )
    for result in model["results"]
  }
  ends = "; ".join(
    f"{name} from {values[0]:.4g} to {values[-1]:.4g}"
    for name, (_, values) in checks.items()
  )
  late = "; ".join(
    f"{name} {values[-1]:.4g} after {seconds[-1]:.0f} s"
    for name, (seconds, values) in measured.items()
  )
  return [
    (
      f"{model['name']}: the same steps, dropout off, a smaller learning rate",
      charts.curves(checks, "step", "loss"),
      f"Loss of each step: {ends}.",
    ),
    (
      f"{model['name']}: loss against time",
      charts.curves(
        measured, "seconds from the start of the program", "loss, mean of 10"
      ),
      f"Mean loss of ten steps: {late}.",
    ),
  ]


def make_page(report: dict) -> str:
  """The report as HTML that refers to nothing outside itself."""
  template = make_environment(REPORT_REQUIREMENTS).get_template(
    "frameworks.html"
  )
  return template.render(
    speed=speed_table(report),
    agreement=agreement_table(report),
    runs=run_table(report),
    data=data_lines(report),
    notes=notes(report),
    commands=commands(report),
    charts=[chart for model in report["models"] for chart in _charts(model)],
    command=report["command"],
  )


def write_text(path: str, text: str) -> None:
  """Writes text, whole or not at all."""
  with text_written_aside(path) as file:
    file.write(text)
