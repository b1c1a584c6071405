"""What was found in a data set, as text."""

import dataclasses
import functools
import os

import numpy as np

import quantization
from data_tools.dataset_facts import (
  Facts,
  FeatureForm,
  FileFacts,
  Kind,
  Moments,
)
from data_tools.dataset_matches import Matches
from data_tools.label_sets import LabelSets
from data_tools.text_table import aligned, cut, printable
from engine.skipped import listing

# With more files than this, only those with damage are listed.
MOST_FILES = 40
_MOST_CLASSES = 12
_NAME_COLUMNS = 40

DAMAGE, WARNING, NOTE = "damage", "warning", "note"
"""How grave a finding is."""


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something that a user should know.

  Attributes:
    level: DAMAGE, WARNING or NOTE.
    text: one line.
  """

  level: str
  text: str


@dataclasses.dataclass
class Inspection:
  """All that was found.

  Attributes:
    files: paths.
    groups: names of the groups of files, such as splits.
    group_of_file: of each file the index of its group.
    facts: of all records, but for what the arrays below have.
    places: (videos, 2) int32, index of the file and number of the record.
    ids: (videos,) uint64, hashes of the ids.
    has_labels: (videos,) bool, whether the record has the feature.
    labels: of the videos.
    same_ids: videos with the same id.
    same_features: videos with the same features.
    names: {class: name}.
    names_from: the file that they are from; empty without any.
    num_classes: classes that there should be; 0 if not known.
    ranges: {feature: (low, high)} of bytes; others as YouTube-8M has them.
    seconds: it took.
  """

  files: list[str]
  groups: list[str]
  group_of_file: list[int]
  facts: Facts
  places: np.ndarray
  ids: np.ndarray
  has_labels: np.ndarray
  labels: LabelSets
  same_ids: Matches
  same_features: Matches
  names: dict[int, str]
  names_from: str
  num_classes: int
  ranges: dict[str, tuple[float, float]]
  seconds: float

  def name_of(self, index: int) -> str:
    """The name of a class, safe to print."""
    return printable(self.names.get(index) or f"class {index}")

  def place_text(self, place: tuple[int, int]) -> str:
    """A record in words: its file and number."""
    file, number = place
    return f"{printable(self.files[file])}, record {number}"

  def group_of_video(self) -> np.ndarray:
    """(videos,) int, the group of each video."""
    return np.asarray(self.group_of_file, np.int32)[self.places[:, 0]]

  @functools.cached_property
  def counts_by_group(self) -> list[dict[int, int]]:
    """Of each group {class: videos}."""
    group_of_video = self.group_of_video()
    return [
      self.labels.counts_of(group_of_video == index)
      for index in range(len(self.groups))
    ]

  def total(self) -> FileFacts:
    """The sum of all files."""
    total = FileFacts()
    for facts in self.facts.files.values():
      total.merge(facts)
    return total


@dataclasses.dataclass(frozen=True)
class FeatureNumbers:
  """The numbers of a feature, bytes as the floats that they stand for.

  Attributes:
    form: of the feature.
    moments: as stored.
    least, most, mean, spread: (size,) float64, of each dimension.
  """

  form: FeatureForm
  moments: Moments
  least: np.ndarray
  most: np.ndarray
  mean: np.ndarray
  spread: np.ndarray

  @property
  def is_empty(self) -> bool:
    """Whether no finite number was found."""
    return not len(self.least) or not np.isfinite(self.least).any()


def byte_scale(
  form: FeatureForm, ranges: dict[str, tuple[float, float]]
) -> tuple[float, float]:
  """What to multiply stored numbers by, and what to add then."""
  if form.dtype != "uint8":
    return 1.0, 0.0
  return quantization.scale_and_bias(
    ranges.get(form.name, quantization.YOUTUBE8M_RANGE)
  )


def feature_numbers(inspection: Inspection) -> list[FeatureNumbers]:
  """The numbers of each feature, those of the first kind first."""
  numbers = []
  for form, moments in inspection.facts.moments.items():
    scale, bias = byte_scale(form, inspection.ranges)
    numbers.append(
      FeatureNumbers(
        form,
        moments,
        moments.least.astype(float) * scale + bias,
        moments.most.astype(float) * scale + bias,
        moments.mean * scale + bias,
        moments.spread * scale,
      )
    )
  return numbers


def kind_text(kind: Kind) -> str:
  """A kind in words: "frame level: rgb (1024 uint8)"."""
  if not kind:
    return "no features, or of further kinds"
  level = "frame level" if kind[0].is_frame_level else "video level"
  features = ", ".join(
    f"{printable(form.name)} ({form.size} {form.dtype})" for form in kind
  )
  return f"{level}: {features}"


# --------------------------------------------------------------------------
# Findings


def _count(number: int, what: str, several: str = "") -> str:
  """A number of things: `1 video` or `2 videos`."""
  return f"{number} {what if number == 1 else several or f'{what}s'}"


def _of_damage(inspection: Inspection) -> list[Finding]:
  total = inspection.total()
  found = []
  for kind, (file, number, message) in inspection.facts.damage.items():
    place = inspection.place_text((file, number))
    found.append(
      Finding(
        DAMAGE,
        f"{total.damage[kind]} {kind}, first in {place}: {printable(message)}",
      )
    )
  if total.lost_bytes:
    found.append(
      Finding(
        DAMAGE,
        "Lost after a damaged length or where a file is cut off:"
        f" {total.lost_bytes} bytes.",
      )
    )
  return found


def _of_matches(inspection: Inspection) -> list[Finding]:
  found = []
  for what, matches in (
    ("the same id", inspection.same_ids),
    ("identical features", inspection.same_features),
  ):
    if not matches.num_groups:
      continue
    details = []
    if matches is inspection.same_features and matches.num_other_ids:
      details.append(f"{matches.num_other_ids} under different ids")
    if matches.num_other_labels:
      details.append(f"{matches.num_other_labels} with different labels")
    detail = f" ({', '.join(details)})" if details else ""
    one, other = matches.examples[0]
    found.append(
      Finding(
        WARNING,
        f"{_count(matches.num_extra, 'video')} beyond the first of"
        f" {_count(matches.num_groups, 'group')} with {what}{detail}: for"
        f" example {inspection.place_text(one)}, and"
        f" {inspection.place_text(other)}.",
      )
    )
    for (one, other), number in sorted(matches.overlaps.items()):
      found.append(
        Finding(
          WARNING,
          f"{printable(inspection.groups[one])} and"
          f" {printable(inspection.groups[other])} overlap: {number} with"
          f" {what} in both.",
        )
      )
  return found


def _of_features(inspection: Inspection) -> list[Finding]:
  facts = inspection.facts
  found = []
  if len(facts.kinds) > 1:
    kinds = "; ".join(
      f"{number} {kind_text(kind)}"
      + (
        f" (first in {inspection.place_text(facts.first_of_kind[kind])})"
        if kind
        else ""
      )
      for kind, number in facts.kinds.most_common()
    )
    found.append(
      Finding(
        WARNING,
        f"Records of several kinds, of which a model takes one: {kinds}.",
      )
    )
  if facts.num_not_finite:
    place = inspection.place_text(facts.not_finite[0])
    found.append(
      Finding(
        WARNING,
        f"{_count(facts.num_not_finite, 'video')} with NaN or infinity, which"
        f" training refuses, first in {place}.",
      )
    )
  for form, moments in facts.moments.items():
    constant = np.flatnonzero(moments.is_constant)
    if len(constant):
      dead = int(moments.is_zero.sum())
      zero = f" ({dead} always 0)" if dead else ""
      found.append(
        Finding(
          WARNING,
          f"{printable(form.name)}: {len(constant)} of {form.size} dimensions"
          f" never change{zero}, the first is {constant[0]}.",
        )
      )
  if facts.frames[0]:
    found.append(
      Finding(
        WARNING,
        f"{_count(facts.frames[0], 'video')} without frames; training leaves"
        " them out.",
      )
    )
  without = inspection.total().num_videos - sum(facts.kinds.values())
  if without > facts.frames[0]:
    found.append(
      Finding(
        WARNING,
        f"{_count(without - facts.frames[0], 'video')} without any feature.",
      )
    )
  return found


def _of_labels(inspection: Inspection) -> list[Finding]:
  found = []
  group_of_video = inspection.group_of_video()
  num_labels = inspection.labels.num_labels
  for index, group in enumerate(inspection.groups):
    of_group = group_of_video == index
    missing = int((of_group & ~inspection.has_labels).sum())
    empty = int((of_group & inspection.has_labels & (num_labels == 0)).sum())
    all_of = int(of_group.sum())
    name = printable(group)
    if missing:
      found.append(
        Finding(
          NOTE if missing == all_of else WARNING,
          f"{name}: {missing} of {_count(all_of, 'video')} without the feature"
          " labels, as in a test split.",
        )
      )
    if empty:
      found.append(
        Finding(
          WARNING,
          f"{name}: {empty} of {_count(all_of, 'video')} with an empty list of"
          " labels.",
        )
      )
  if "train" in inspection.groups:
    counts = inspection.counts_by_group
    trained = counts[inspection.groups.index("train")]
    for group, of_group in zip(inspection.groups, counts, strict=True):
      only = sorted(of_group.keys() - trained.keys())
      if only:
        names = ", ".join(inspection.name_of(index) for index in only[:3])
        names += " and others" if len(only) > 3 else ""
        found.append(
          Finding(
            WARNING,
            f"{_count(len(only), 'class', 'classes')} of {printable(group)}"
            f" with no video in train: {names}.",
          )
        )
  known = inspection.num_classes
  beyond = [index for index in inspection.labels.counts if index >= known]
  if known and beyond:
    found.append(
      Finding(
        WARNING,
        f"{_count(len(beyond), 'label')} beyond the {known} classes that are"
        f" known: {', '.join(map(str, sorted(beyond)[:5]))}.",
      )
    )
  return found


def find(inspection: Inspection) -> list[Finding]:
  """What a user should know, the gravest first."""
  return [
    *_of_damage(inspection),
    *_of_matches(inspection),
    *_of_features(inspection),
    *_of_labels(inspection),
  ]


# --------------------------------------------------------------------------
# Tables


def _group_rows(
  inspection: Inspection, with_files: bool
) -> list[tuple[str, FileFacts]]:
  """The rows of the table of groups: each, its files if wanted, the total."""
  folder = common_folder(inspection.files)
  rows = []
  for index, group in enumerate(inspection.groups):
    members = [
      file
      for file, of in enumerate(inspection.group_of_file)
      if of == index and file in inspection.facts.files
    ]
    total = FileFacts()
    for file in members:
      total.merge(inspection.facts.files[file])
    rows.append((printable(group), total))
    if len(inspection.files) > MOST_FILES:
      members = [
        file for file in members if inspection.facts.files[file].damage
      ]
    for file in members if with_files else []:
      name = os.path.relpath(inspection.files[file], folder)
      rows.append((f"  {printable(name)}", inspection.facts.files[file]))
  if len(inspection.groups) > 1:
    rows.append(("total", inspection.total()))
  return rows


def common_folder(files: list[str]) -> str:
  """The deepest folder that holds all files."""
  return os.path.commonpath(
    [os.path.dirname(os.path.abspath(file)) for file in files]
  )


def group_table(
  inspection: Inspection, with_files: bool = False
) -> list[list[str]]:
  """Cells of the table of groups of files, the heads first.

  Args:
    inspection: all that was found.
    with_files: whether to list the files of each group.
  """
  has_frames = bool(inspection.facts.frames)
  heads = ["", "videos", "frames", "labels", "unlabeled", "damage"]
  rows = [heads]
  for name, facts in _group_rows(inspection, with_files):
    numbers = (
      facts.num_videos,
      facts.num_frames,
      facts.num_labels,
      facts.num_empty,
    )
    rows.append([name, *map(str, numbers), listing(facts.damage)])
  if not has_frames:
    rows = [[*row[:2], *row[3:]] for row in rows]
  if not any(row[-1] for row in rows[1:]):
    rows = [row[:-1] for row in rows]
  return rows


def distribution(counts: dict[int, int]) -> str:
  """A distribution of whole numbers in words.

  Args:
    counts: {number: how often}; at least one.
  """
  total = sum(counts.values())
  mean = sum(number * count for number, count in counts.items()) / total
  half, seen, median = (total + 1) // 2, 0, 0
  for number in sorted(counts):
    seen += counts[number]
    if seen >= half:
      median = number
      break
  return (
    f"{min(counts)} at least, {median} in the middle, {mean:.1f} on average,"
    f" {max(counts)} at most"
  )


def label_counts(inspection: Inspection) -> dict[int, int]:
  """{number of labels: videos} of the videos with the feature labels."""
  numbers = inspection.labels.num_labels[inspection.has_labels]
  return {
    number: count
    for number, count in enumerate(np.bincount(numbers).tolist())
    if count
  }


def feature_table(inspection: Inspection) -> list[list[str]]:
  """Cells of the table of features, the heads first."""
  rows = [
    [
      "feature",
      "stored as",
      "numbers",
      "least",
      "most",
      "mean",
      "spread",
      "constant",
      "always 0",
      "NaN",
      "infinite",
    ]
  ]
  for of in feature_numbers(inspection):
    moments = of.moments
    ranges = ["-"] * 4
    if not of.is_empty:
      values = (
        float(np.min(of.least)),
        float(np.max(of.most)),
        float(np.mean(of.mean)),
        # Within a dimension; the means of dimensions differ besides.
        float(np.mean(of.spread)),
      )
      ranges = [f"{value:.4g}" for value in values]
    rows.append(
      [
        printable(of.form.name),
        of.form.dtype,
        str(of.form.size),
        *ranges,
        str(int(moments.is_constant.sum())),
        str(int(moments.is_zero.sum())),
        str(moments.num_nan),
        str(moments.num_infinite),
      ]
    )
  return rows


def class_table(inspection: Inspection, classes: list[int]) -> list[list[str]]:
  """Cells of the table of some classes, the heads first."""
  heads = [printable(group) for group in inspection.groups]
  rows = [["class", *heads, "mean other labels"]]
  for index in classes:
    others = mean_others(inspection.labels, index)
    counts = [
      str(of_group.get(index, 0)) for of_group in inspection.counts_by_group
    ]
    shown = "-" if others is None else f"{others:.1f}"
    rows.append([f"{index} {inspection.name_of(index)}", *counts, shown])
  return rows


def mean_others(labels: LabelSets, index: int) -> float | None:
  """The mean number of other labels of a class's videos; None without any."""
  numbers = labels.num_labels_with(index)
  return float(numbers.mean()) - 1 if len(numbers) else None


def report(
  inspection: Inspection, classes: list[int], findings: list[Finding]
) -> str:
  """What was found, as text.

  Args:
    inspection: all of it.
    classes: to show.
    findings: of `find`.
  """
  files = inspection.files
  total = inspection.total()
  lines = [f"{_count(len(files), 'file')} in {common_folder(files)}", ""]
  table = group_table(inspection, with_files=True)
  has_damage = table[0][-1] == "damage"
  lines += [*aligned(table, texts=(0, -1) if has_damage else (0,)), ""]
  kinds = inspection.facts.kinds
  lines += [
    f"{_count(number, 'record')}: {kind_text(kind)}"
    for kind, number in kinds.most_common()
  ]
  if inspection.facts.frames:
    lines.append(f"Frames of a video: {distribution(inspection.facts.frames)}.")
  counts = label_counts(inspection)
  if counts:
    lines.append(f"Labels of a video: {distribution(counts)}.")
  occurring = inspection.labels.counts
  known = f" of {inspection.num_classes}" if inspection.num_classes else ""
  if occurring:
    lines.append(
      f"Classes: {len(occurring)}{known} occur, the largest index is"
      f" {max(occurring)}. Names: {printable(inspection.names_from) or 'none'}."
    )
  if inspection.facts.ratings:
    ratings = np.array(list(inspection.facts.ratings.values()))
    lines.append(
      f"Segments: {inspection.facts.num_segments} rated,"
      f" {int(ratings.sum())} ratings of {len(ratings)} classes,"
      f" {int(ratings[:, 1].sum())} of them positive."
    )
  if len(table) > 1 and inspection.facts.moments:
    lines += ["", *aligned(feature_table(inspection), texts=(0, 1))]
  if classes:
    rows = class_table(inspection, classes[:_MOST_CLASSES])
    rows = [[cut(row[0], _NAME_COLUMNS), *row[1:]] for row in rows]
    lines += ["", *aligned(rows)]
  lines.append("")
  lines += [f"{finding.level}: {finding.text}" for finding in findings] or [
    "Nothing conspicuous."
  ]
  rate = total.num_videos / max(inspection.seconds, 1e-9)
  lines += [
    "",
    f"{_count(total.num_videos, 'video')} in {inspection.seconds:.1f} s"
    f" ({rate:.0f} a second)",
  ]
  return "\n".join(lines)
