"""HTML pages of what was predicted for videos.

The timeline page of a video shows what happens when: pictures along the time,
and bands with the confidence of each class. The gallery shows all videos by
class, with the moments at which the class was surest. Both are one file that
opens from the disk; without JavaScript they lack the search and the pointer
alone.
"""

import collections
import hashlib
import math
import operator
import os
from collections.abc import Iterable

from reports.results import ClassScore, VideoResult, Window, readable
from reports.templating import (
  jpeg_uri,
  relative_address,
  require_jinja2,
  write_page,
)

LANES = 8
"""Classes with a band on a timeline page; a color for each."""
FRAMES = 12
"""The most pictures in the row along the time."""
MAX_PICTURES = 400
"""The most pictures in a timeline page's list, so that a page of two hours is
some megabytes."""
TOP_CLASSES = 5
"""Classes that a timeline page names for the video and for each window."""

CLASSES_PER_VIDEO = 5
"""The most classes that the gallery shows a video under."""
MIN_CONFIDENCE = 0.25
"""Of the whole video, to be shown under a class that is not its best."""
MIN_MOMENT = 0.5
"""Of one window, for the same."""
MIN_ALSO = 0.05
"""Of the whole video, to be named beside the class that it is under."""
MOMENTS = 3
"""Moments that the gallery names for a video and class."""

_IN_MOMENTS = "in moments"
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_LONGEST_NAME = 180  # bytes; file systems take 255


def format_time(seconds: float) -> str:
  """A moment as people read it: 0:05, 12:40, 1:02:03, 0:07.2.

  A tenth is shown where the moment is not a whole second.
  """
  tenths = round(seconds * 10)
  minutes, tenths = divmod(tenths, 600)
  hours, minutes = divmod(minutes, 60)
  text = f"{tenths // 10:02d}"
  if tenths % 10:
    text += f".{tenths % 10}"
  return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def format_percent(confidence: float) -> str:
  """A probability as whole percent; 0% and 100% are for exactly 0 and 1."""
  if 0 < confidence < 0.01:
    return "<1%"
  if 0.99 < confidence < 1:
    return ">99%"
  return f"{100 * confidence:.0f}%"


# --------------------------------------------------------------------------
# The timeline page


def timeline_path(folder: str, video_id: str) -> str:
  """The path of a video's timeline page.

  Args:
    folder: of the pages.
    video_id: any text. Characters that make trouble in names of files become
      "_", and names too long are cut; then a hash keeps them apart.
  """
  name = "".join(
    "_" if not one.isprintable() or one in '/\\:*?"<>|%#' else one
    for one in readable(video_id)
  ).strip(" .")
  short = name.encode("utf-8")[:_LONGEST_NAME].decode("utf-8", "ignore")
  short = short or "video"
  if short != video_id:
    digest = hashlib.sha256(video_id.encode("utf-8", "surrogateescape"))
    short += f"-{digest.hexdigest()[:8]}"
  return os.path.join(folder, f"{short}.html")


def write_timeline_page(
  folder: str, result: VideoResult, gallery: str = ""
) -> str:
  """Writes the page of one video.

  Args:
    folder: of the pages, see timeline_path.
    result: what was predicted. Without windows the page has no time line.
    gallery: path of the gallery that the page links back to; empty for none.

  Returns:
    The page's path.

  Raises:
    errors.UserError: jinja2 is not installed.
  """
  path = timeline_path(folder, result.video_id)
  windows = result.windows
  lanes = _choose_lanes(result)
  colored = lanes or result.top[:LANES]
  colors = {score.index: f"k{number}" for number, score in enumerate(colored)}
  end = max([result.duration, *(window.end for window in windows)]) or 1.0
  values = {
    "name": readable(os.path.basename(result.path)),
    "path": readable(result.path),
    "href": relative_address(result.path, path),
    "gallery": relative_address(gallery, path) if gallery else "",
    "duration": format_time(result.duration),
    "thumbnail": "" if windows else jpeg_uri(result.thumbnail),
    "top": [_score(score, colors) for score in result.top[:TOP_CLASSES]],
    "end": _number(end),
    "window_seconds": _number(
      max((window.end - window.start for window in windows), default=0.0)
    ),
    "thin": _thin(len(windows)),
    "film": _film(windows),
    "ribbon": _ribbon(windows, colors, end),
    "lanes": [_lane(score, windows, colors, end) for score in lanes],
    "ticks": _ticks(end) if windows else [],
    "windows": _window_list(windows, colors),
  }
  write_page(path, "timeline.html", values)
  return path


def _choose_lanes(result: VideoResult) -> list[ClassScore]:
  """The classes with a band: most of the time first, then short moments.

  The last quarter of the bands is for classes that are the best for a moment,
  which the sum over a long video hides.
  """
  sums: dict[int, float] = collections.defaultdict(float)
  seconds_best: dict[int, float] = collections.defaultdict(float)
  peaks: dict[int, ClassScore] = {}
  for window in result.windows:
    seconds = window.end - window.start
    for score in window.top[:1]:
      seconds_best[score.index] += seconds
    for score in window.top:
      sums[score.index] += score.confidence * seconds
      peak = peaks.setdefault(score.index, score)
      if score.confidence > peak.confidence:
        peaks[score.index] = score
  by_sum = sorted(sums, key=lambda index: (-sums[index], index))
  chosen = by_sum[: LANES - LANES // 4]
  rest = sorted(
    by_sum[len(chosen) :],
    key=lambda index: (-seconds_best[index], -peaks[index].confidence),
  )
  return [peaks[index] for index in chosen + rest[: LANES - len(chosen)]]


def _lane(score: ClassScore, windows, colors, end: float) -> dict:
  """The band of a class: a bar for each window, as high as its confidence."""
  confidences = [_confidence(window, score.index) for window in windows]
  best = max(range(len(windows)), key=confidences.__getitem__)
  path, height = ["M0 100"], 0.0
  for window, confidence in zip(windows, confidences, strict=True):
    if confidence != height:
      x, y = 1000 * window.start / end, 100 * (1 - confidence)
      path.append(f"H{_number(x)}V{_number(y)}")
      height = confidence
  path.append(f"H{_number(1000 * windows[-1].end / end)}V100z")
  return {
    "label": score.label,
    "color": colors[score.index],
    "percent": format_percent(confidences[best]),
    "time": format_time(windows[best].start),
    "path": "".join(path),
  }


def _ribbon(windows: list[Window], colors, end: float) -> list[dict]:
  """Which class is the best when: neighbors of the same class are one run."""
  runs = []
  for window in windows:
    index = window.top[0].index if window.top else None
    if not runs or runs[-1]["index"] != index:
      runs.append({"index": index, "start": window.start, "end": window.end})
    runs[-1]["end"] = window.end
  return [
    {
      "color": colors.get(run["index"], "other"),
      "x": _number(1000 * run["start"] / end),
      "width": _number(1000 * (run["end"] - run["start"]) / end),
    }
    for run in runs
  ]


def _film(windows: list[Window]) -> list[dict]:
  """The row of pictures; each stands for an equal part of the windows."""
  count = min(FRAMES, len(windows))
  frames = []
  for number in range(count):
    part = windows[
      number * len(windows) // count : (number + 1) * len(windows) // count
    ]
    middle = part[len(part) // 2]
    frames.append(
      {
        "seconds": _number(part[-1].end - part[0].start),
        "image": jpeg_uri(middle.thumbnail),
        "time": format_time(middle.start),
      }
    )
  return frames


def _thin(num_windows: int) -> str:
  """How the row of pictures is thinned out on a narrow screen."""
  if num_windows >= FRAMES:
    return "thin3"
  return "thin2" if num_windows > 4 else ""


def _ticks(end: float) -> list[dict]:
  """At most ten moments with a label, none so late that it does not fit."""
  step = next((one for one in _TICKS if end / one <= 10), _TICKS[-1])
  step *= math.ceil(end / step / 10)
  moments = [step * number for number in range(math.ceil(end / step))]
  return [
    {
      "left": _number(100 * moment / end),
      "time": format_time(moment),
      "is_late": moment > 0.8 * end,  # does not fit on a phone
    }
    for moment in moments
    if moment <= 0.94 * end
  ]


def _window_list(windows: list[Window], colors) -> list[dict]:
  """Each window's time, classes and, for some at least, picture."""
  pictures = [
    number for number, window in enumerate(windows) if window.thumbnail
  ]
  stride = math.ceil(len(pictures) / MAX_PICTURES) or 1
  with_picture = set(pictures[::stride])
  return [
    {
      "start": _number(window.start),
      "end": _number(window.end),
      "time": f"{format_time(window.start)} to {format_time(window.end)}",
      "image": jpeg_uri(window.thumbnail) if number in with_picture else "",
      "scores": [_score(score, colors) for score in window.top[:TOP_CLASSES]],
    }
    for number, window in enumerate(windows)
  ]


def _score(score: ClassScore, colors) -> dict:
  return {
    "label": score.label,
    "percent": format_percent(score.confidence),
    "part": _number(min(1.0, max(0.0, score.confidence))),
    "color": colors.get(score.index, "other"),
  }


def _confidence(window: Window, index: int) -> float:
  """0 where the class is not among the window's."""
  return next((one.confidence for one in window.top if one.index == index), 0.0)


def _number(value: float) -> str:
  """A number in CSS, SVG or an address, in few characters."""
  return f"{value:.3f}".rstrip("0").rstrip(".")


# --------------------------------------------------------------------------
# The gallery


def write_gallery(
  path: str,
  results: Iterable[VideoResult],
  title: str,
  timeline_dir: str = "",
) -> None:
  """Writes the page of all videos, by class.

  A video is shown under its best class, and under others that are probable for
  the whole of it or sure for a moment. Of the pictures one is kept for each
  video and class, so results may be made one at a time.

  Args:
    path: the HTML file.
    results: read once. A video_id occurs once.
    title: of the page.
    timeline_dir: folder with the page of each video, see write_timeline_page,
      that its picture leads to; empty if there are none: then it leads to the
      video itself.

  Raises:
    errors.UserError: jinja2 is not installed.
  """
  require_jinja2()
  groups: dict[int, dict] = {}
  num_videos = num_pages = num_moments = 0
  for result in results:
    page = timeline_path(timeline_dir, result.video_id) if timeline_dir else ""
    for score in _classes_of(result) or [ClassScore(-1, "No class", 0.0)]:
      group = groups.setdefault(
        score.index,
        {"id": f"class{score.index}", "label": score.label, "cards": []},
      )
      group["cards"].append(_card(result, score, path, page, num_videos))
    num_videos += 1
    num_pages += bool(page)
    num_moments += len(result.windows)
  for group in groups.values():
    group["cards"].sort(key=operator.itemgetter("order"))
  ordered = sorted(
    groups.values(), key=lambda group: (-len(group["cards"]), group["label"])
  )
  write_page(
    path,
    "gallery.html",
    {
      "title": readable(title),
      "groups": ordered,
      "count": f"{_counted(num_videos, 'video', 'videos')},"
      f" {_counted(len(groups), 'class', 'classes')}",
      "intro": _intro(num_pages > 0, num_moments > 0),
    },
  )


def _intro(has_pages: bool, has_moments: bool) -> list[str]:
  """What the numbers mean and where links lead, in paragraphs."""
  numbers = (
    "The percentage on a picture is how sure the model is that the class is in"
    " the whole video; beside it is the video's length."
  )
  where = (
    "A video is shown under its best class, and under each other class of at"
    f" least {format_percent(MIN_CONFIDENCE)} for the whole video"
  )
  links = "A picture opens "
  links += "the video's timeline." if has_pages else "the video."
  if has_moments:
    numbers += (
      " Below are the moments at which the model is surest;"
      f" \u201c{_IN_MOMENTS}\u201d: the class is probable in these alone."
    )
    where += f" or {format_percent(MIN_MOMENT)} for a moment"
    links += " A moment plays the video from there."
  numbers += (
    " Each class is judged by itself, so percentages need not add up to 100%."
  )
  return [numbers, f"{where}. {links}"]


def _counted(number: int, one: str, several: str) -> str:
  return f"{number:,} {one if number == 1 else several}"


def _classes_of(result: VideoResult) -> list[ClassScore]:
  """The classes that a video is shown under, the best first.

  A score's confidence is of the whole video; 0 if the class is among those of
  moments only.
  """
  chosen = result.top[:1] + [
    score for score in result.top[1:] if score.confidence >= MIN_CONFIDENCE
  ]
  known = {score.index for score in result.top}
  sure: dict[int, ClassScore] = {}
  for window in result.windows:
    for score in window.top:
      if score.confidence >= MIN_MOMENT:
        best = sure.setdefault(score.index, score)
        if score.confidence > best.confidence:
          sure[score.index] = score
  taken = {score.index for score in chosen}
  moments = sorted(sure.values(), key=lambda score: -score.confidence)
  for score in moments:
    if score.index in taken:
      continue
    whole = 0.0
    if score.index in known:
      whole = next(
        one.confidence for one in result.top if one.index == score.index
      )
    chosen.append(ClassScore(score.index, score.name, whole))
  return chosen[:CLASSES_PER_VIDEO]


def _best_moments(windows: list[Window], index: int) -> list[Window]:
  """The windows with the highest confidence of a class, highest first.

  Windows beside one that was taken are the same moment, and left out; so are
  those with less than half of the highest confidence.
  """
  confidences = [_confidence(window, index) for window in windows]
  order = sorted(range(len(windows)), key=lambda one: (-confidences[one], one))
  taken: list[int] = []
  for number in order:
    if not confidences[number] or len(taken) == MOMENTS:
      break
    if taken and confidences[number] < confidences[taken[0]] / 2:
      break
    if all(abs(number - other) > 1 for other in taken):
      taken.append(number)
  return [windows[number] for number in taken]


def _middle(window: Window) -> float:
  return (window.start + window.end) / 2


def _picture_near(windows: list[Window], seconds: float) -> bytes:
  """The picture of a window, of those that have one the nearest."""
  pictured = [window for window in windows if window.thumbnail]
  if not pictured:
    return b""
  nearest = min(pictured, key=lambda one: abs(_middle(one) - seconds))
  return nearest.thumbnail


def _card(
  result: VideoResult, score: ClassScore, gallery: str, page: str, number: int
) -> dict:
  """What the gallery shows of a video under a class."""
  best = _best_moments(result.windows, score.index)
  video = relative_address(result.path, gallery)
  target = relative_address(page, gallery) if page else video
  peak = _confidence(best[0], score.index) if best else 0.0
  middle = _middle(best[0]) if best else result.duration / 2
  picture = result.thumbnail or _picture_near(result.windows, middle)
  return {
    "number": number,
    "path": readable(result.path),
    "name": readable(os.path.basename(result.path)),
    "duration": format_time(round(result.duration)),
    "image": jpeg_uri(picture),
    "href": target and target + (_at(best[0]) if best else ""),
    "percent": _IN_MOMENTS
    if peak >= MIN_MOMENT and score.confidence < MIN_CONFIDENCE
    else format_percent(score.confidence),
    "order": (-score.confidence, -peak, number),
    "moments": [
      {
        "time": format_time(window.start),
        "percent": format_percent(_confidence(window, score.index)),
        "href": video and video + _at(window),
      }
      for window in best
    ],
    "also": [
      {"label": other.label, "percent": format_percent(other.confidence)}
      for other in result.top[:4]
      if other.index != score.index and other.confidence >= MIN_ALSO
    ][:3],
  }


def _at(window: Window) -> str:
  return f"#t={_number(window.start)}"
