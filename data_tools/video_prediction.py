"""Predicts video files: inference.py --videos.

The features are made as those that the model was trained with: the train_dir
keeps the settings. They become records, so that prediction reads what training
read. A timeline has the model's prediction for each window of five seconds,
from the frames of this window alone.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from absl import flags, logging

import errors
import eval_util
import program_flags
from data_tools import extraction_runs, video_items, work_folder
from data_tools.dataset_writer import REPORT_COLUMNS, write_report
from data_tools.extraction_runs import MOST_LISTED, Processes
from data_tools.item_table import BadItemError, Item, ItemTable
from data_tools.number_stores import store_as
from data_tools.video_features import Finish
from engine import csv_cells
from engine import train_dir as train_dirs
from engine.data_files import check_not_used, check_own
from engine.dataset_card import PCA_FOLDER
from media.extraction import Extracted, Extraction
from media.frames import BadVideoError, Moments, Sampling, read_video
from media.images import to_jpeg
from media.parts import OtherSettingsError, Parts
from records.writing import RecordWriter, frame_record, video_record
from reports import results, video_pages
from reports.results import ClassScore, VideoResult, Window
from reports.templating import require_jinja2

FLAGS = flags.FLAGS

WINDOW_SECONDS = 5
_WINDOW_CLASSES = 5  # kept of each window
_SHOWN_CLASSES = 3  # printed of each video
_THUMBNAIL_SIZE = (144, 256)  # the box that they fit into
_MOST_THUMBNAILS = 800  # of a video: 90 MB of images until they are JPEGs
_VIDEOS_A_TIME = 16  # whose thumbnails are in memory

# The settings that name files, which may be elsewhere on another machine.
_FILES: dict[str, str] = {
  "encoder_weights": "the encoder's weights are",
  "pca_dir": "YouTube-8M's PCA is",
  "audio_weights": "the sound encoder's checkpoint is",
  "audio_pca": "the sound encoder's PCA parameters are",
}

Batches = Iterable[tuple[dict, np.ndarray]]
"""Batches of readers.py and the predictions (batch, classes) for them."""
OnBatch = Callable[[np.ndarray, np.ndarray], None]
"""Takes, of a batch, the columns of the best predictions, best first, and these
predictions, each (videos, ranks)."""


def define_video_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of inference.py that are for videos."""
  features = program_flags.Subject(program_flags.FEATURES, flag_values)
  features.string(
    "videos",
    "",
    "Video files to predict instead of records: a folder, a pattern such as"
    " 'new/*.mp4', or a CSV with the column path and, if wanted, id.",
  )
  for name, what in _FILES.items():
    features.string(
      name, "", f"Where {what} on this machine; empty: where training had it."
    )
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.bool(
    "timeline",
    False,
    "With --videos: also the classes of each 5 s of the videos, in"
    " timeline.csv, timeline.json and a page for each video in timeline/, which"
    " are made beside --output_file.",
  )
  output.string(
    "html",
    "",
    "With --videos: HTML file to make, a gallery of all videos by class; empty:"
    " none.",
  )
  devices = program_flags.Subject(program_flags.DEVICES, flag_values)
  extraction_runs.define_run_flags(devices, "With --videos: ")


def check_flags() -> None:
  """Checks that the flags for videos go together.

  Raises:
    errors.UserError: they do not.
  """
  if FLAGS.videos:
    for name in (
      *("input_data_pattern", "dataset_dir", "segment_labels"),
      *("min_frames", "skip_corrupt"),
    ):
      if FLAGS[name].present and FLAGS[name].value:
        raise errors.UserError(
          f"Expected one of --videos and --{name}, received both. Leave one of"
          " them out."
        )
    return
  for name in ("timeline", "html", "shard", "merge", "engine"):
    if FLAGS[name].value != FLAGS[name].default:
      raise errors.UserError(
        f"Expected --videos=FILES with --{name}, received none. Name the video"
        " files to predict."
      )


@dataclasses.dataclass(frozen=True)
class Model:
  """A trained model that predicts videos.

  Attributes:
    folder: with its checkpoint.
    is_frame_level: whether it takes the frames of videos.
    model_name: of its class.
    max_frames: that it reads of a video.
    classes: the class index of each prediction.
    class_names: a name for each class of the data; None if they are not known.
    predict: writes predictions.csv for files of records; takes the files, and a
      function that gets the best predictions of each batch.
    batches: the predictions for files of records.
  """

  folder: str
  is_frame_level: bool
  model_name: str
  max_frames: int
  classes: Sequence[int]
  class_names: Sequence[str] | None
  predict: Callable[[list[str], OnBatch], None]
  batches: Callable[[list[str]], Batches]

  def scores(self, indexes, confidences) -> list[ClassScore]:
    """The best classes, with names.

    Args:
      indexes: columns of the predictions.
      confidences: of each.
    """
    found = []
    for column, confidence in zip(indexes, confidences, strict=True):
      index = self.classes[int(column)]
      name = self.class_names[index] if self.class_names else ""
      found.append(ClassScore(index, name, float(confidence)))
    return found


# --------------------------------------------------------------------------
# Features as in training


class Features:
  """How the features of a model were made, and are made again.

  Args:
    folder: of the model.

  Attributes:
    extraction: from videos to the numbers of the encoders.

  Raises:
    errors.UserError: the model was trained on other features than those of
      videos.
  """

  def __init__(self, folder: str):
    settings = train_dirs.read_extraction(folder)
    path = os.path.join(folder, train_dirs.EXTRACTION_FILE)
    extraction = Extraction.from_dict(settings, path)
    here = {
      name: os.path.abspath(getattr(FLAGS, name))
      for name in _FILES
      if getattr(FLAGS, name)
    }
    self.extraction = dataclasses.replace(extraction, **here)
    self._finish = Finish(settings, os.path.join(folder, PCA_FOLDER))
    names = settings["feature_names"]
    dtypes = settings["feature_dtypes"]
    ranges = settings["feature_ranges"] or [None] * len(names)
    self._stored = {
      name: (dtype, of)
      for name, dtype, of in zip(names, dtypes, ranges, strict=True)
    }

  def stored(self, found: Extracted) -> dict[str, np.ndarray]:
    """The arrays of a video as the training data stored them.

    Raises:
      BadItemError: a number is too large for them.
    """
    arrays = self._finish(found.arrays)
    return {
      name: store_as(array, *self._stored[name])
      for name, array in arrays.items()
    }


def windows_of(times: np.ndarray) -> list[tuple[int, np.ndarray]]:
  """Divides frames into windows.

  Args:
    times: (frames,) seconds.

  Returns:
    For each window that has a frame, in order: its number, of the one that
    begins at number * WINDOW_SECONDS, and the indices of its frames.
  """
  # A time such as 4.9999999 comes of rounding and is meant as 5.
  numbers = np.floor(times / WINDOW_SECONDS + 1e-6).astype(int)
  return [
    (int(number), np.flatnonzero(numbers == number))
    for number in np.unique(numbers)
  ]


# --------------------------------------------------------------------------
# Prediction


@dataclasses.dataclass
class _Video:
  """A video on its way to a VideoResult.

  Attributes:
    item: says where it is.
    duration: seconds.
    num_frames: of its features.
    windows: their numbers, and the time of the middle one of their frames.
    top: its best classes.
    window_tops: those of each window.
  """

  item: Item
  duration: float
  num_frames: int
  windows: list[tuple[int, float]] = dataclasses.field(default_factory=list)
  top: list[ClassScore] = dataclasses.field(default_factory=list)
  window_tops: list[list[ClassScore]] = dataclasses.field(default_factory=list)


def _write_records(
  items: Sequence[Item],
  keys: Sequence[str],
  parts: Parts,
  features: Features,
  folder: str,
  with_windows: bool,
) -> tuple[list[_Video], list[tuple[str, str, str]]]:
  """Writes videos.tfrecord and windows.tfrecord to a folder.

  Returns:
    The videos in them, in order; (id, path, reason) of the others.
  """
  videos, left_out = [], []
  paths = [
    os.path.join(folder, name)
    for name in (work_folder.VIDEO_RECORDS, work_folder.WINDOW_RECORDS)
  ]
  with (
    RecordWriter(paths[0]) as of_videos,
    RecordWriter(paths[1]) as of_windows,
  ):
    for item, key in zip(items, keys, strict=True):
      try:
        found = extraction_runs.read_extracted(item, key, parts)
        arrays = features.stored(found)
      except BadItemError as error:
        path = item.paths[video_items.FEATURE]
        left_out.append((item.video_id, path, str(error)))
        continue
      video = _Video(item, found.duration, len(found.times))
      video_id = item.video_id.encode()
      is_frame_level = next(iter(arrays.values())).ndim == 2
      make_record = frame_record if is_frame_level else video_record
      of_videos.write(make_record(video_id, None, arrays))
      for number, rows in windows_of(found.times) if with_windows else []:
        middle = float(found.times[rows[len(rows) // 2]])
        video.windows.append((number, middle))
        window = {name: array[rows] for name, array in arrays.items()}
        of_windows.write(frame_record(video_id, None, window))
      videos.append(video)
  return videos, left_out


def _warn_of_long_videos(model: Model, videos: list[_Video]) -> None:
  """Says whose prediction as a whole is one of their beginning."""
  long = [video for video in videos if video.num_frames > model.max_frames]
  if model.is_frame_level and long:
    logging.warning(
      "Of %d videos the model reads the first %d frames only, as in training;"
      " the first is %s with %d. --num_frames=%d of extract_features spreads"
      " them over all of a video.",
      len(long),
      model.max_frames,
      long[0].item.paths[video_items.FEATURE],
      long[0].num_frames,
      model.max_frames,
    )


def _predict_windows(model: Model, videos: list[_Video], file: str) -> None:
  """Adds the best classes of each window to videos."""
  count = min(FLAGS.top_k, _WINDOW_CLASSES, len(model.classes))
  waiting = (video for video in videos for _ in video.windows)
  for _, predictions in model.batches([file]):
    tops = zip(*eval_util.top_k_classes(predictions, count), strict=True)
    # The videos first: zip takes no video for which there is no prediction.
    for top, video in zip(tops, waiting, strict=False):
      video.window_tops.append(model.scores(*top))


def _thumbnails(video: _Video) -> list[bytes]:
  """A picture of each window of a video, or one of a video without windows.

  A window's is the middle one of the frames that were predicted. Of very long
  videos only some windows have one; the others have b"".
  """
  moments = [time for _, time in video.windows]
  stride = -(-len(moments) // _MOST_THUMBNAILS) or 1
  sampling = Moments(moments[::stride]) if moments else Sampling(num_frames=1)
  path = video.item.paths[video_items.FEATURE]
  made = [b""] * max(1, len(moments))
  try:
    images = read_video(path, sampling, _THUMBNAIL_SIZE, "inside").images
  except BadVideoError:  # could be read before
    return made
  made[::stride] = [to_jpeg(image, image.shape[1]) for image in images]
  return made


def _result(video: _Video, thumbnails: Sequence[bytes] = ()) -> VideoResult:
  """The result of a video.

  Args:
    video: with its predictions.
    thumbnails: see _thumbnails; empty for none.
  """
  windows = [
    Window(
      start=float(number * WINDOW_SECONDS),
      end=min((number + 1.0) * WINDOW_SECONDS, max(video.duration, time)),
      top=top,
    )
    for (number, time), top in zip(
      video.windows, video.window_tops, strict=True
    )
  ]
  for window, thumbnail in zip(windows, thumbnails, strict=False):
    window.thumbnail = thumbnail
  return VideoResult(
    path=os.path.abspath(video.item.paths[video_items.FEATURE]),
    video_id=video.item.video_id,
    duration=video.duration,
    top=video.top,
    windows=windows,
    thumbnail=thumbnails[0] if thumbnails and not windows else b"",
  )


def _with_pictures(videos: list[_Video]) -> Iterator[VideoResult]:
  """The results, with pictures, those of a few at a time in memory."""

  def make(video):
    return _result(video, _thumbnails(video))

  workers = min(FLAGS.num_workers or 4, 4)
  with concurrent.futures.ThreadPoolExecutor(workers) as threads:
    for first in range(0, len(videos), _VIDEOS_A_TIME):
      yield from threads.map(make, videos[first : first + _VIDEOS_A_TIME])


def _print_best(videos: list[_Video]) -> None:
  """Prints the best classes of each video."""
  for video in videos[:MOST_LISTED]:
    best = ", ".join(
      f"{score.label} {score.confidence:.3f}"
      for score in video.top[:_SHOWN_CLASSES]
    )
    print(f"{results.readable(video.item.paths[video_items.FEATURE])}: {best}")
  if len(videos) > MOST_LISTED:
    print(f"and {len(videos) - MOST_LISTED} more videos")


def _write_reports(videos: list[_Video]) -> None:
  """Writes what --timeline and --html ask for."""
  pages = ""
  if FLAGS.timeline:
    plain = list(map(_result, videos))
    path = _timeline_path()
    results.write_timeline_csv(f"{path}.csv", plain, FLAGS.spreadsheet_safe)
    results.write_timeline_json(f"{path}.json", plain)
    logging.info("Timeline: %s.csv, %s.json", path, path)
    pages = path
  if not FLAGS.html and not pages:
    return

  def with_pages():
    for result in _with_pictures(videos):
      if pages:
        video_pages.write_timeline_page(pages, result, FLAGS.html)
      yield result

  if FLAGS.html:
    video_pages.write_gallery(
      FLAGS.html, with_pages(), "Videos by class", pages
    )
    logging.info("Gallery: %s", FLAGS.html)
  else:
    for _ in with_pages():
      pass
  if pages:
    logging.info("Pages of the videos: %s", pages)


def files_read(folder: str) -> list[str]:
  """The files that a prediction of the videos that the flags name reads.

  Args:
    folder: of the model.

  Raises:
    errors.UserError: there are no videos; the model is not one for videos.
  """
  settings = Features(folder).extraction
  items = video_items.find_videos(FLAGS.videos).items
  paths = [
    item.paths[video_items.FEATURE] for item in items if not item.problem
  ]
  return [path for path in (FLAGS.videos, *settings.files, *paths) if path]


def check_outputs(used: Iterable[str]) -> None:
  """Checks that no file is lost by what is written besides --output_file.

  Args:
    used: files that the same command reads, or writes too.

  Raises:
    errors.UserError: one would be.
  """
  train_dirs.check_no_own_file(FLAGS.html, "html")
  check_not_used(FLAGS.html, "html", used)
  written = [(_left_out_path(), "output_file", csv_cells.line(REPORT_COLUMNS))]
  if FLAGS.timeline:
    path = _timeline_path()
    written += [
      (f"{path}.csv", "timeline", csv_cells.line(results.CSV_COLUMNS)),
      (f"{path}.json", "timeline", results.JSON_BEGINNING),
    ]
    if os.path.lexists(path) and not os.path.isdir(path):
      raise errors.UserError(
        f"Expected a folder for pages, or none, as {path} for --timeline,"
        " received a file. Move it elsewhere, or write to another folder."
      )
  used = {*used, FLAGS.html} - {""}
  for path, flag_name, beginning in written:
    check_not_used(path, flag_name, used)
    check_own(path, flag_name, beginning)


def _left_out_path() -> str:
  root, _ = os.path.splitext(FLAGS.output_file)
  return f"{root}_left_out.csv"


def _timeline_path() -> str:
  """The folder of the timeline's pages; with an ending, its other files."""
  return os.path.join(os.path.dirname(FLAGS.output_file), "timeline")


def predict_videos(model: Model) -> None:
  """Predicts the videos that the flags name, and writes what they ask for.

  With --shard, only the features of a part of the videos are made.

  Args:
    model: what predicts.

  Raises:
    errors.UserError: no video can be used; the model is not one for videos.
  """
  processes = Processes.from_flags()
  features = Features(model.folder)
  if FLAGS.timeline and not model.is_frame_level:
    raise errors.UserError(
      "Expected a model of frames for --timeline, received"
      f" {model.model_name}, which takes whole videos. Leave --timeline out, or"
      " train a frame-level model, such as FrameLevelLogisticModel."
    )
  if FLAGS.timeline or FLAGS.html:
    require_jinja2()
  found = video_items.find_videos(FLAGS.videos)
  for note in found.notes:
    logging.info("%s", note)
  table = ItemTable.of([video_items.FEATURE], found.items)
  table.check_ids()  # they need no labels
  items = list(table)
  # Kept until the end, so that a prediction that was stopped goes on.
  folder = work_folder.path_beside(FLAGS.output_file)
  files = video_items.files_to_extract(items, found.keys)
  inputs = [FLAGS.videos, *features.extraction.files, *files.values()]
  is_shard = processes.shard is not None
  with work_folder.opened(folder, "output_file", inputs, shared=is_shard):
    _predict_in(folder, model, features, processes, items, found.keys, files)


def _predict_in(
  folder: str,
  model: Model,
  features: Features,
  processes: Processes,
  items: Sequence[Item],
  keys: Sequence[str],
  files: dict[str, str],
) -> None:
  """See predict_videos.

  Args:
    folder: see work_folder.py.
    model: what predicts.
    features: of the model.
    processes: which extract.
    items: the videos.
    keys: of each the key in the parts.
    files: of the videos, by key.
  """
  if not processes.shard and not processes.merge:
    _begin_again_if_different(folder, features.extraction)
  parts = extraction_runs.extract(folder, files, features.extraction, processes)
  if parts is None:
    return
  with_windows = model.is_frame_level and bool(FLAGS.timeline or FLAGS.html)
  videos, left_out = _write_records(
    items, keys, parts, features, folder, with_windows
  )
  if left_out:
    write_report(_left_out_path(), left_out, FLAGS.spreadsheet_safe)
  if not videos:
    _, path, reason = left_out[0]
    raise errors.UserError(
      f"Expected videos that can be read as --videos={FLAGS.videos}, received"
      f" none; the first is {path}: {reason}. {_left_out_path()} lists all."
    )
  _warn_of_long_videos(model, videos)
  in_order = iter(videos)

  def take(columns: np.ndarray, confidences: np.ndarray) -> None:
    for top in zip(columns, confidences, strict=True):
      next(in_order).top = model.scores(*top)

  model.predict([os.path.join(folder, work_folder.VIDEO_RECORDS)], take)
  if with_windows:
    of_windows = os.path.join(folder, work_folder.WINDOW_RECORDS)
    _predict_windows(model, videos, of_windows)
  _print_best(videos)
  if left_out:
    print(f"Left out {len(left_out)} videos, see {_left_out_path()}")
  _write_reports(videos)
  work_folder.remove(folder)


def _begin_again_if_different(folder: str, extraction: Extraction) -> None:
  """Deletes what a stopped prediction with another model has kept."""
  try:
    Parts(folder, extraction.to_dict())
  except OtherSettingsError:
    work_folder.empty(folder)
    logging.info("Deleted features of other settings in %s.", folder)
