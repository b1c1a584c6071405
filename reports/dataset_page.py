"""Draws what was found in a data set as a page: one file, without a network."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from data_tools import dataset_report
from data_tools.dataset_facts import FeatureForm
from data_tools.dataset_report import Finding, Inspection
from data_tools.text_table import printable
from engine.skipped import listing
from records.apart import Apart
from reports import charts, class_graph
from reports.templating import make_environment

# Classes of the matrix and of the graph, which are more.
_MATRIX_CLASSES = 20
_GRAPH_CLASSES = 28
_MOST_OTHERS = 5
_GRAPH_WIDTH, _GRAPH_HEIGHT = 1000, 620
_FEW_CLASSES, _FEW_HEIGHT = 8, 320


@dataclasses.dataclass(frozen=True)
class _Chart:
  """An image and its words.

  Attributes:
    title: above it.
    uri: its address.
    text: what it shows, for those who do not see it.
  """

  title: str
  uri: str
  text: str


def _tiles(inspection: Inspection) -> list[tuple[str, str]]:
  """The numbers at the top: (number, what it is)."""
  total = inspection.total()
  labeled = int(inspection.has_labels.sum())
  tiles = [(f"{total.num_videos:,}", "videos")]
  if inspection.facts.frames:
    tiles.append((f"{total.num_frames:,}", "frames"))
  if labeled:
    known, occurring = inspection.num_classes, len(inspection.labels.counts)
    what = f"of {known:,} classes" if known else "classes that occur"
    tiles.append((f"{occurring:,}", what))
    tiles.append((f"{total.num_labels / labeled:.2f}", "labels a video"))
  if inspection.facts.num_segments:
    tiles.append((f"{inspection.facts.num_segments:,}", "rated segments"))
  num_files = len(inspection.files)
  tiles.append((f"{num_files:,}", "file" if num_files == 1 else "files"))
  damaged = sum(total.damage.values())
  if damaged:
    tiles.append((f"{damaged:,}", "damaged"))
  return tiles


def _overview_charts(inspection: Inspection) -> list[_Chart]:
  made = []
  counts = list(inspection.labels.counts.values())
  if counts:
    made.append(
      _Chart(
        "Label frequency",
        charts.label_frequency(counts),
        f"Videos of each class by rank: {counts[0]} of the most frequent,"
        f" {counts[-1]} of the rarest of {len(counts)} classes.",
      )
    )
  labels = dataset_report.label_counts(inspection)
  for title, numbers in (
    ("Labels a video", labels),
    ("Frames a video", dict(inspection.facts.frames)),
  ):
    if numbers:
      text = dataset_report.distribution(numbers)
      uri = charts.histogram(numbers, title.lower().replace(" a ", " of a "))
      made.append(_Chart(title, uri, f"{title}: {text}."))
  return made


def _feature_charts(inspection: Inspection) -> list[_Chart]:
  made = []
  for of in dataset_report.feature_numbers(inspection):
    if of.is_empty:
      continue
    known = np.isfinite(of.least)
    numbers = [
      np.where(known, part, 0.0)
      for part in (of.mean, of.spread, of.least, of.most)
    ]
    level = "frame" if of.form.is_frame_level else "video"
    made.append(
      _Chart(
        f"{printable(of.form.name)}, {of.form.size} {of.form.dtype} a {level}",
        charts.dimensions(*numbers),
        f"Mean, spread and range of each dimension: {numbers[2].min():.4g} at"
        f" least, {numbers[3].max():.4g} at most.",
      )
    )
  return made


def _video(video: Apart, inspection: Inspection) -> dict:
  """What the page shows of one video."""
  made = []
  for name, stored in sorted(video.features.items()):
    if not stored.size:
      continue
    form = FeatureForm(
      name, stored.dtype.name, stored.shape[-1], video.is_frame_level
    )
    scale, bias = dataset_report.byte_scale(form, inspection.ranges)
    values = stored.astype(np.float32) * np.float32(scale) + np.float32(bias)
    if video.is_frame_level:
      uri = charts.heat_map(values)
      text = f"Heat map of {len(values)} frames, and of their changes."
    else:
      uri, text = charts.vector(values), f"{len(values)} numbers."
    made.append(_Chart(printable(name), uri, text))
  return {
    "id": printable(video.video_id.decode("utf-8", "backslashreplace")),
    "labels": [inspection.name_of(index) for index in video.labels or []],
    "num_frames": video.num_frames,
    "charts": made,
  }


# --------------------------------------------------------------------------
# Classes


def _classes(inspection: Inspection, classes: Sequence[int]) -> list[dict]:
  """Rows of the classes: videos by group, and how many other labels."""
  rows = []
  for index in classes:
    others = inspection.labels.others(index, _MOST_OTHERS)
    total = sum(others)
    rows.append(
      {
        "index": index,
        "name": inspection.name_of(index),
        "videos": total,
        "counts": [
          of_group.get(index, 0) for of_group in inspection.counts_by_group
        ],
        "others": [
          {"count": count, "percent": 100 * count / max(total, 1)}
          for count in others
        ],
        "mean": dataset_report.mean_others(inspection.labels, index),
      }
    )
  return rows


def _with_partners(inspection: Inspection, classes: Sequence[int]) -> list[int]:
  """The classes of the graph: some, and those most often with them."""
  shown = list(classes)[:_GRAPH_CLASSES]
  partners = inspection.labels.partners(shown)
  return shown + list(partners)[: _GRAPH_CLASSES - len(shown)]


def _matrix(
  inspection: Inspection, classes: list[int], together: np.ndarray
) -> dict:
  """P(column | row) of classes; `together` is of LabelSets.together."""
  sizes = np.diag(together)
  parts = together / np.maximum(sizes, 1)[:, None]
  return {
    "names": [inspection.name_of(index) for index in classes],
    "sizes": sizes.tolist(),
    "counts": together.tolist(),
    "parts": parts.tolist(),
  }


def _graph(
  inspection: Inspection, classes: list[int], together: np.ndarray
) -> dict:
  """The drawing of classes; `together` is of LabelSets.together."""
  edges = class_graph.strongest_edges(together)
  at = class_graph.places(len(classes), edges)
  sizes = np.diag(together)
  largest = max(int(sizes.max(initial=1)), 1)
  height = _FEW_HEIGHT if len(classes) <= _FEW_CLASSES else _GRAPH_HEIGHT
  scale = np.array([_GRAPH_WIDTH, height])
  nodes = [
    {
      "name": inspection.name_of(index),
      "videos": int(size),
      "x": x,
      "y": y,
      "left": 100 * x / _GRAPH_WIDTH,
      "top": 100 * y / height,
      "radius": 4 + 14 * np.sqrt(size / largest),
    }
    for index, size, (x, y) in zip(
      classes, sizes.tolist(), (at * scale).tolist(), strict=True
    )
  ]
  return {
    "width": _GRAPH_WIDTH,
    "height": height,
    "nodes": nodes,
    "edges": [
      {
        "one": nodes[edge.one],
        "other": nodes[edge.other],
        "count": edge.count,
        "width": 1 + 7 * edge.strength,
      }
      for edge in edges
    ],
  }


# --------------------------------------------------------------------------
# The page


def _file_rows(inspection: Inspection) -> list[dict]:
  """The files, for a list that can be opened."""
  folder = dataset_report.common_folder(inspection.files)
  rows = []
  for file, facts in sorted(inspection.facts.files.items()):
    name = os.path.relpath(inspection.files[file], folder)
    rows.append(
      {
        "name": printable(name),
        "facts": facts,
        "damage": listing(facts.damage),
      }
    )
  if len(rows) > dataset_report.MOST_FILES:
    rows = [row for row in rows if row["damage"]]
  return rows


def make_page(
  inspection: Inspection,
  classes: Sequence[int],
  findings: Sequence[Finding],
  video: Apart | None,
) -> str:
  """Makes the page.

  Args:
    inspection: all that was found.
    classes: to show.
    findings: what a user should know.
    video: whose features to draw; None for none.

  Returns:
    HTML that refers to nothing outside itself.
  """
  environment = make_environment("requirements/inspect.txt")
  group_table = dataset_report.group_table(inspection)
  drawn = _with_partners(inspection, classes)
  together = inspection.labels.together(drawn)
  few = slice(_MATRIX_CLASSES)
  return environment.get_template("dataset.html").render(
    folder=printable(dataset_report.common_folder(inspection.files)),
    tiles=_tiles(inspection),
    findings=findings,
    groups=[printable(group) for group in inspection.groups],
    group_table=group_table,
    files=_file_rows(inspection),
    kinds=[
      (count, dataset_report.kind_text(kind))
      for kind, count in inspection.facts.kinds.most_common()
    ],
    overview=_overview_charts(inspection),
    classes=_classes(inspection, classes),
    most_others=_MOST_OTHERS,
    matrix=_matrix(inspection, drawn[few], together[few, few]),
    graph=_graph(inspection, drawn, together),
    feature_table=dataset_report.feature_table(inspection),
    features=_feature_charts(inspection),
    video=_video(video, inspection) if video else None,
  )


def write_page(
  path: str,
  inspection: Inspection,
  classes: Sequence[int],
  findings: Sequence[Finding],
  video: Apart | None,
) -> None:
  """Writes the page to a file, see make_page.

  Raises:
    OSError: it cannot be written.
  """
  content = make_page(inspection, classes, findings, video)
  with open(path, "w", encoding="utf-8") as file:
    file.write(content)
