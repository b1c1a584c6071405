"""A comparison as text: report.md, report.csv, and the table for a README."""

import dataclasses
import textwrap
from collections.abc import Callable, Sequence

from engine import csv_cells
from reports.bootstrap import Interval
from reports.comparison import Comparison, Difference, Row, Spread
from reports.markdown import escaped, markdown_table

UNKNOWN = "-"
NO_DIFFERENCE = "no difference shown"


# --------------------------------------------------------------------------
# Numbers


def amount(value: float) -> str:
  """A large number: 18.8 M, 640 k, 32."""
  for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
    if value >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.3g}"


def num_bytes(value: float) -> str:
  """Bytes: 1.2 GB, 75 MB."""
  unit = "GB" if value >= 1e9 else "MB"
  return f"{value / (1e9 if unit == 'GB' else 1e6):.3g} {unit}"


def seconds(value: float) -> str:
  """A time: 2 h 5 min, 3 min 12 s, 7.5 s."""
  if value < 60:
    return f"{value:.3g} s"
  minutes, rest = divmod(round(value), 60)
  if minutes < 60:
    return f"{minutes} min {rest} s"
  return f"{minutes // 60} h {minutes % 60} min"


def milliseconds(value: float) -> str:
  """A short time."""
  return f"{1000 * value:.3g} ms"


def _decimals(number: int) -> Callable[[float], str]:
  return lambda value: f"{value:.{number}f}"


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of the table.

  Attributes:
    key: of Row.values.
    title: above it.
    text: writes a value.
    about: what it is, in a sentence.
    has_spread: whether the spread is shown.
  """

  key: str
  title: str
  text: Callable[[float], str]
  about: str
  has_spread: bool = False


COLUMNS = (
  Column(
    "loss", "loss", _decimals(2), "Label loss of the scored videos.", True
  ),
  Column(
    "hit_at_one",
    "accuracy (Hit@1)",
    _decimals(3),
    "Share of videos whose most probable class is one of their labels.",
    True,
  ),
  Column(
    "perr",
    "PERR",
    _decimals(3),
    "Share of labels among as many predictions as a video has labels.",
    True,
  ),
  Column(
    "map", "mAP", _decimals(3), "Average precision, a mean over classes.", True
  ),
  Column(
    "gap",
    "GAP",
    _decimals(3),
    "Average precision of the 20 best predictions of all videos together.",
    True,
  ),
  Column("parameters", "parameters", amount, "Numbers that are learned."),
  Column(
    "training_seconds",
    "training",
    seconds,
    "Time of the steps alone, without start, compiling and saving.",
  ),
  Column(
    "start_seconds",
    "start",
    seconds,
    "Time until the first step is done, compiling included.",
  ),
  Column("videos_per_second", "videos/s", amount, "In training."),
  Column("cpu_percent", "CPU %", _decimals(0), "In training; 100 is one core."),
  Column("gpu_percent", "GPU %", _decimals(0), "In training."),
  Column("gpu_memory_bytes", "GPU memory", num_bytes, "Most in training."),
  Column("peak_memory_bytes", "memory", num_bytes, "Most in training."),
  Column("export_bytes", "export", num_bytes, "Size of the SavedModel."),
  Column(
    "latency_seconds",
    "latency",
    milliseconds,
    "Predicting one video that is in memory.",
  ),
  Column(
    "predicted_per_second",
    "predicted/s",
    amount,
    "Videos a second, in batches of the fastest size.",
  ),
)

SHORT = (
  "loss",
  "hit_at_one",
  "perr",
  "map",
  "gap",
  "parameters",
  "training_seconds",
  "videos_per_second",
  "peak_memory_bytes",
  "latency_seconds",
)
"""The columns of the table for a README."""


def shown_columns(rows: Sequence[Row]) -> list[Column]:
  """The columns that any row has a value for."""
  return [
    column
    for column in COLUMNS
    if any(row.values.get(column.key) is not None for row in rows)
  ]


def cell(value: Spread | None, column: Column) -> str:
  """A value, with its spread if the column shows it."""
  if value is None:
    return UNKNOWN
  text = column.text(value.mean)
  if column.has_spread and value.deviation is not None:
    text += f" ± {column.text(value.deviation)}"
  return text


def interval_text(interval: Interval) -> str:
  """A difference in words and its interval."""
  ends = f"{interval.low:+.3f} to {interval.high:+.3f}"
  if not interval.shows_difference:
    return f"{NO_DIFFERENCE} ({ends})"
  return f"{interval.mean:+.3f} ({ends})"


# --------------------------------------------------------------------------
# report.md


def row_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
  """The rows as a table in Markdown."""
  return markdown_table(
    ["model", *(column.title for column in columns)],
    [
      [
        escaped(row.name),
        *(cell(row.values.get(column.key), column) for column in columns),
      ]
      for row in rows
    ],
  )


def how_to_read(
  comparison: Comparison, has_predicted: bool = True
) -> list[str]:
  """Sentences about the main table.

  Args:
    comparison: what it shows.
    has_predicted: whether it has the column predicted/s.
  """
  seeds = comparison.seeds
  text = [
    f"Each model was trained for {comparison.budget}, one after the other, in a"
    f" process of its own, and scored on {comparison.num_videos:,} videos.",
    "Accuracy is Hit@1: a video counts if its most probable class is one of its"
    " labels.",
  ]
  if seeds > 1:
    text.append(
      f"Scores are means over {seeds} seeds ± the standard deviation; other"
      " figures are means."
    )
  else:
    text.append(
      "There is one seed: another one may change the order of the models."
    )
  if not has_predicted:
    text.append("Latency is without reading.")
    return text
  batches = {
    run.scores["batch_size"] for row in comparison.trained for run in row.runs
  }
  text.append(
    "Latency and predicted/s are without reading; the fastest batches have"
    f" {', '.join(map(str, sorted(batches)))} videos."
  )
  return text


def how_to_read_differences(comparison: Comparison) -> list[str]:
  """Sentences about the table of differences."""
  text = (
    f"A paired bootstrap of {comparison.resamples:,} draws of videos and seeds"
    " with replacement. A difference whose interval of 95% contains 0 is not"
    " shown to be one."
  )
  sentences = [text]
  if comparison.resamples < 10_000:
    sentences.append(
      f"These are fewer draws than 10,000, because there are"
      f" {comparison.num_videos:,} videos."
    )
  if comparison.seeds == 1:
    sentences.append(
      "With one seed the intervals hold only what other videos would change,"
      " not what another training would."
    )
  pairs = len(comparison.differences)
  if pairs > 5:
    sentences.append(
      f"Of {pairs} pairs without any difference, about"
      f" {max(1, round(pairs / 20))} would still show one."
    )
  return sentences


def readme_table(comparison: Comparison) -> str:
  """The table for a README: fewer columns, and below it how to read it."""
  columns = [
    column for column in shown_columns(comparison.rows) if column.key in SHORT
  ]
  facts = dict(comparison.facts)
  made_on = [facts[name] for name in ("Machine", "Versions") if name in facts]
  ties = [
    f"{one.better} and {one.worse}"
    for one in comparison.differences
    if not one.intervals["gap"].shows_difference
  ]
  sentences = how_to_read(comparison, has_predicted=False)
  if ties:
    sentences.append(
      f"No difference of GAP is shown between {'; '.join(ties)}."
    )
  sentences.append(f"Machine: {'; '.join(made_on)}.")
  about = textwrap.fill(
    " ".join(sentences), 80, break_on_hyphens=False, break_long_words=False
  )
  return f"{row_table(comparison.rows, columns)}\n{about}\n"


def difference_cells(difference: Difference) -> list[str]:
  """The texts of a pair of rows: both names, GAP, mAP."""
  return [
    difference.better,
    difference.worse,
    interval_text(difference.intervals["gap"]),
    interval_text(difference.intervals["map"]),
  ]


def _more_rows(comparison: Comparison) -> list[str]:
  """The parts of report.md about fractions and workers."""
  columns = [
    column
    for column in COLUMNS
    if column.key in ("hit_at_one", "map", "gap", "videos_per_second")
  ]
  parts = []
  if comparison.by_fraction:
    parts.append("## Quality against the amount of data\n")
    for fraction, rows in sorted(comparison.by_fraction.items()):
      parts.append(f"{100 * fraction:g}% of the training data:\n")
      parts.append(row_table(rows, columns[:3]))
  if comparison.by_workers:
    parts.append("## Speed against workers\n")
    parts.append(
      "All workers are processes of this machine and share its cores.\n"
    )
    for workers, rows in sorted(comparison.by_workers.items()):
      parts.append(f"{workers} worker{'s' if workers > 1 else ''}:\n")
      parts.append(row_table(rows, columns[3:]))
  return parts


def make_markdown(comparison: Comparison) -> str:
  """The text of report.md."""
  parts = [
    "# Comparison of models\n",
    " ".join(how_to_read(comparison)) + "\n",
    row_table(comparison.rows, shown_columns(comparison.rows)),
  ]
  if comparison.notes:
    parts.append("".join(f"- {escaped(note)}\n" for note in comparison.notes))
  if comparison.differences:
    parts += [
      "## Which differences are more than chance\n",
      " ".join(how_to_read_differences(comparison)) + "\n",
      markdown_table(
        ["model", "against", "GAP", "mAP"],
        [
          list(map(escaped, difference_cells(one)))
          for one in comparison.differences
        ],
      ),
    ]
  parts += _more_rows(comparison)
  if comparison.failed:
    parts.append("## Not finished\n")
    parts.append(
      "".join(
        f"- {escaped(name)}: {escaped(reason)}\n"
        for name, reason in comparison.failed
      )
    )
  parts.append("## How it was made\n")
  parts.append(
    "".join(
      f"- {escaped(what)}: {escaped(text)}\n" for what, text in comparison.facts
    )
  )
  parts.append("The comparison:\n")
  parts.append(f"```\n{comparison.command}\n```\n")
  for row in comparison.trained:
    parts.append(f"{escaped(row.name)}, first seed:\n")
    parts.append(f"```\n{row.command}\n```\n")
  return "\n".join(parts)


# --------------------------------------------------------------------------
# report.csv


def make_csv(comparison: Comparison) -> str:
  """The text of report.csv: plain numbers, a line for each row of any table.

  Columns: table (main, fraction or workers), model, is_baseline, fraction,
  workers, seeds; mean and standard deviation of each column of the table in
  units without prefix; predicted_batches, the fastest batch sizes of all seeds
  in order, with spaces between; command.
  """
  lines = []
  numbers = [column.key for column in COLUMNS] + ["steps"]
  lines.append(
    [
      *("table", "model", "is_baseline", "fraction", "workers", "seeds"),
      *(part for key in numbers for part in (key, f"{key}_deviation")),
      *("predicted_batches", "command"),
    ]
  )

  def write(table, row, fraction, workers):
    cells = []
    for key in numbers:
      value = row.values.get(key)
      cells.append("" if value is None else f"{value.mean:.10g}")
      deviation = value.deviation if value else None
      cells.append("" if deviation is None else f"{deviation:.10g}")
    batches = sorted({run.scores["batch_size"] for run in row.runs})
    cells += [" ".join(map(str, batches)), row.command]
    lines.append(
      [
        *(table, row.name, row.is_baseline, f"{fraction:g}"),
        *(workers, len(row.runs), *cells),
      ]
    )

  for row in comparison.rows:
    write("main", row, 1, 1)
  for fraction, rows in sorted(comparison.by_fraction.items()):
    for row in rows:
      write("fraction", row, fraction, 1)
  for workers, rows in sorted(comparison.by_workers.items()):
    for row in rows:
      write("workers", row, 1, workers)
  return "".join(map(csv_cells.line, lines))
