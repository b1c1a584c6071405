"""Draws a comparison as a page: one file, without a network."""

from collections.abc import Mapping, Sequence

from data_tools.text_table import printable
from reports import calibration, charts, comparison_findings
from reports.comparison import Comparison, Row
from reports.comparison_pictures import Picture, calibrations_of
from reports.comparison_tables import (
  COLUMNS,
  Column,
  cell,
  difference_cells,
  how_to_read,
  how_to_read_differences,
  shown_columns,
)
from reports.model_charts import FEWEST_PREDICTIONS
from reports.templating import REPORT_REQUIREMENTS, make_environment

_MOST_CLASSES = 15
_MOST_VIDEOS = 12
_MOST_CONFUSIONS = 8
# Of the scores the largest is the best, of these columns the smallest.
_SMALLER_IS_BETTER = frozenset({"loss"})


def _best(rows: Sequence[Row], column: Column) -> str | None:
  """The text of the best score of a column; None for a cost."""
  if not column.has_spread:
    return None
  means = [
    spread.mean for row in rows if (spread := row.values.get(column.key))
  ]
  if not means:
    return None
  pick = min if column.key in _SMALLER_IS_BETTER else max
  return column.text(pick(means))


def _table(rows: Sequence[Row], columns: Sequence[Column], title="") -> dict:
  """A table of rows for the template."""
  best = {column.key: _best(rows, column) for column in columns}
  made = []
  for row in rows:
    cells = []
    for column in columns:
      text, _, spread = cell(row.values.get(column.key), column).partition(
        " ± "
      )
      cells.append(
        {
          "text": text,
          "spread": spread,
          "is_best": text == best[column.key],
        }
      )
    made.append(
      {
        "name": printable(row.name),
        "is_baseline": row.is_baseline,
        "is_first_baseline": row.is_baseline
        and not any(one["is_baseline"] for one in made),
        "cells": cells,
      }
    )
  return {"title": title, "columns": columns, "rows": made}


def _tiles(comparison: Comparison) -> list[tuple[str, str]]:
  """The numbers at the top: (number, what it is)."""
  num_entries = sum(not row.is_baseline for row in comparison.rows)
  shown = sum(
    one.intervals["gap"].shows_difference for one in comparison.differences
  )
  tiles = [
    (str(num_entries), "model" if num_entries == 1 else "models"),
    (str(comparison.seeds), "seed" if comparison.seeds == 1 else "seeds"),
    (f"{comparison.num_train_videos:,}", "training videos"),
    (f"{comparison.num_videos:,}", "scored videos"),
  ]
  if comparison.differences:
    tiles.append(
      (
        f"{shown} of {len(comparison.differences)}",
        "differences of GAP that are more than chance",
      )
    )
  return tiles


def _differences(comparison: Comparison) -> list[dict]:
  made = []
  for one in comparison.differences:
    better, worse, *texts = difference_cells(one)
    shows = [
      one.intervals[metric].shows_difference for metric in ("gap", "map")
    ]
    made.append(
      {
        "better": printable(better),
        "worse": printable(worse),
        "texts": list(zip(texts, shows, strict=True)),
      }
    )
  return made


def _calibrations(comparison: Comparison) -> list[dict]:
  made = []
  calibrations = calibrations_of(comparison)
  for row in comparison.trained:
    of_all = calibrations[row.name]
    of_best = calibration.joined(
      [run.scores["calibration_of_best"] for run in row.runs]
    )
    predictions = len(row.runs) * comparison.num_videos
    made.append(
      {
        "name": printable(row.name),
        "cells": [
          f"{of_all.error():.5f}",
          f"{of_best.error():.3f}",
          f"{of_all.predicted.sum() / predictions:.2f}",
          f"{of_all.labels.sum() / predictions:.2f}",
        ],
      }
    )
  return made


def _classes(comparison: Comparison) -> list[dict]:
  rows = comparison.trained
  if len(rows) < 2:
    return []
  found = comparison_findings.class_disagreements(
    [comparison_findings.average_precisions(row) for row in rows],
    comparison_findings.positives_of(rows[0].runs[0]),
    _MOST_CLASSES,
  )
  return [
    {
      "name": printable(comparison.names[one.place]),
      "positives": one.positives,
      "train_count": int(comparison.train_counts[one.place]),
      "cells": [
        {
          "text": f"{precision:.2f}",
          "is_best": precision == max(one.precisions),
        }
        for precision in one.precisions
      ],
    }
    for one in found
  ]


def _videos(comparison: Comparison) -> list[dict]:
  rows = comparison.trained
  if len(rows) < 2:
    return []
  names = [printable(name) for name in comparison.names]
  video_ids = rows[0].runs[0].video_ids
  return [
    {
      "id": printable(video_ids[one.video].decode("utf-8", "backslashreplace")),
      "labels": ", ".join(names[place] for place in one.labels),
      "cells": [
        {"text": names[place], "is_label": is_label}
        for place, is_label in zip(one.best, one.best_is_label, strict=True)
      ],
    }
    for one in comparison_findings.video_disagreements(rows, _MOST_VIDEOS)
  ]


def _confusions(comparison: Comparison) -> list[dict]:
  names = [printable(name) for name in comparison.names]
  made = [
    {
      "name": printable(row.name),
      "pairs": [
        {
          "missed": names[pair.missed],
          "predicted": names[pair.predicted],
          "count": pair.count,
          "share": f"{100 * pair.share:.0f}%",
        }
        for pair in comparison_findings.confusions(
          row.runs[0], _MOST_CONFUSIONS
        )
      ],
    }
    for row in comparison.trained
  ]
  return [row for row in made if row["pairs"]]


def _other_tables(by_number: Mapping, title, keys) -> list[dict]:
  columns = [column for column in COLUMNS if column.key in keys]
  return [
    _table(rows, columns, title(number))
    for number, rows in sorted(by_number.items())
  ]


def make_page(
  comparison: Comparison, pictures: Mapping[str, Sequence[Picture]]
) -> str:
  """Makes the page.

  Args:
    comparison: with trained rows.
    pictures: see comparison_pictures.draw.

  Returns:
    HTML that refers to nothing outside itself.
  """
  environment = make_environment(REPORT_REQUIREMENTS)
  columns = shown_columns(comparison.rows)
  return environment.get_template("comparison.html").render(
    budget=comparison.budget,
    tiles=_tiles(comparison),
    how_to_read=how_to_read(comparison),
    scores=_table(
      comparison.rows, [column for column in columns if column.has_spread]
    ),
    costs=_table(
      comparison.trained,
      [column for column in columns if not column.has_spread],
    ),
    notes=comparison.notes,
    failed=[
      (printable(name), printable(why)) for name, why in comparison.failed
    ],
    differences=_differences(comparison),
    how_to_read_differences=how_to_read_differences(comparison),
    pictures={
      section: [
        {
          "title": picture.title,
          "uri": charts.uri_of(picture.svg),
          "text": printable(picture.text),
        }
        for picture in of
      ]
      for section, of in pictures.items()
    },
    has_spread=comparison.seeds > 1,
    fewest_predictions=FEWEST_PREDICTIONS,
    calibrations=_calibrations(comparison),
    fraction_tables=_other_tables(
      comparison.by_fraction,
      lambda fraction: f"{100 * fraction:g}% of the training data",
      ("loss", "hit_at_one", "perr", "map", "gap"),
    ),
    worker_tables=_other_tables(
      comparison.by_workers,
      lambda workers: f"{workers} worker{'s' if workers > 1 else ''}",
      ("training_seconds", "videos_per_second", "cpu_percent", "gap"),
    ),
    row_names=[printable(row.name) for row in comparison.trained],
    classes=_classes(comparison),
    videos=_videos(comparison),
    confusions=_confusions(comparison),
    facts=[(what, printable(text)) for what, text in comparison.facts],
    command=comparison.command,
    commands=[
      {"name": printable(row.name), "command": row.command}
      for row in comparison.trained
    ],
  )
