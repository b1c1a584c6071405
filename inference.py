"""Predicts labels: python inference.py.

Reads records, which need no labels, and writes the best classes of each video
to --output_file, in the order of the input; or, with --segment_labels, the
best segments of each class. The model is the newest checkpoint in --train_dir
or what --input_model_tgz holds.
"""

import contextlib
import csv
import os
import time

import startup  # isort: skip
import numpy as np
import tensorflow as tf
from absl import flags, logging

import distribution
import errors
import eval_util
import models
import readers
import train_dir as train_dirs
from data_tools import sample_data

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  # The model.
  flags.DEFINE_string(
    "train_dir", "/tmp/yt8m_model/", "Folder with the trained model."
  )
  flags.DEFINE_string(
    "input_model_tgz",
    "",
    "Archive of a model, as --output_model_tgz writes it, to use instead of"
    " --train_dir.",
  )
  flags.DEFINE_string(
    "untar_model_dir",
    "/tmp/yt8m-model",
    "Folder that --input_model_tgz is unpacked to.",
  )
  flags.DEFINE_string(
    "output_model_tgz", "", "Archive to write the model to; empty: none."
  )
  # Data.
  flags.DEFINE_string(
    "input_data_pattern",
    "",
    "Glob pattern of the TFRecord files, several with commas between; empty:"
    " the built-in sample data.",
  )
  flags.DEFINE_integer("batch_size", 512, "Videos a step.", lower_bound=1)
  flags.DEFINE_integer(
    "num_readers",
    1,
    "Accepted as in the original; files are read one after the other, so that"
    " predictions come in the order of the input.",
    lower_bound=1,
  )
  # Output.
  flags.DEFINE_string(
    "output_file", "predictions.csv", "File to write the predictions to."
  )
  flags.DEFINE_integer(
    "top_k", 20, "Best classes to write of each video.", lower_bound=1
  )
  flags.DEFINE_string(
    "vocabulary",
    "",
    "vocabulary.csv with the names of the classes; adds a second file, named"
    " as --output_file with _readable before its ending. Empty: none.",
  )
  # Segments.
  flags.DEFINE_bool(
    "segment_labels", False, "Predict for each 5 s segment of the videos."
  )
  flags.DEFINE_integer(
    "segment_max_pred",
    100000,
    "With --segment_labels: best segments to write of each class.",
    lower_bound=1,
  )
  flags.DEFINE_string(
    "segment_label_ids_file",
    "",
    "With --segment_labels: CSV with a header and one class index a line, the"
    " classes to write; empty: all of the model.",
  )


# --------------------------------------------------------------------------
# Predictions of batches


class Prediction:
  """The forward pass of a checkpoint on files.

  Args:
    model_flags: see train_dir.py.
    checkpoint: path without its file endings.
    files: TFRecord files.
    batch_size: videos a step.
    segment_labels: predict for each segment.
    placement: a distribution.Placement; None for one device.
  """

  def __init__(
    self,
    model_flags,
    checkpoint,
    files,
    batch_size,
    segment_labels=False,
    placement=None,
  ):
    placement = placement or distribution.Placement()
    self._files = files
    self._reader = readers.open_reader(
      model_flags, files, False, segment_labels
    )
    with placement.strategy.scope():
      model = models.build_model(model_flags, self._reader.quantized)
    train_dirs.load_weights(model, checkpoint)
    self.num_classes = model_flags["num_classes"]
    self._predict = placement.compile_forward(
      lambda batch: model(batch, training=False)["predictions"],
      models.compiles_predictions(model_flags),
    )
    self._batches = readers.evaluation_batches(
      self._reader, files, batch_size, with_labels=False, num_readers=1
    )

  def batches(self):
    """Yields (batch of readers.py, predictions (batch, classes) tensor)."""
    began = last_line = time.monotonic()
    num_examples = 0
    try:
      for batch in self._batches:
        predictions = self._predict(
          {name: batch[name] for name in ("video_matrix", "num_frames")}
        )
        yield batch, predictions
        num_examples += predictions.shape[0]
        now = time.monotonic()
        if now - last_line > 5.0:
          logging.info(
            "num examples processed: %d elapsed seconds: %.1f examples/sec:"
            " %.2f",
            num_examples,
            now - began,
            num_examples / (now - began),
          )
          last_line = now
    except readers.READ_ERRORS:
      readers.raise_for_bad_record(self._reader, self._files, False)
      raise
    seconds = time.monotonic() - began
    logging.info(
      "num examples processed: %d elapsed seconds: %.1f examples/sec: %.2f",
      num_examples,
      seconds,
      num_examples / seconds,
    )


def check_finite(values, video_ids) -> None:
  """Refuses predictions that are no numbers.

  Raises:
    errors.UserError: names the video.
  """
  rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
  if len(rows):
    raise errors.UserError(
      "Expected probabilities, the model gave a NaN for the video"
      f" {video_ids[rows[0]].decode()}: its training diverged, or the video's"
      " features are no numbers. Train it anew with a smaller"
      " --base_learning_rate, or mend the record."
    )


# --------------------------------------------------------------------------
# Videos


def read_class_names(vocabulary: str, num_classes: int) -> list[str]:
  """Reads the names of the classes from a vocabulary.csv.

  Args:
    vocabulary: path of a CSV file with the columns Index and Name.
    num_classes: classes of the model.

  Returns:
    A name for each class; "class N" where the file has none.

  Raises:
    errors.UserError: the file is no such CSV.
  """
  names = [f"class {index}" for index in range(num_classes)]
  with tf.io.gfile.GFile(vocabulary) as file:
    rows = csv.DictReader(file)
    if not {"Index", "Name"} <= set(rows.fieldnames or []):
      raise errors.UserError(
        f"Expected the columns Index and Name in --vocabulary={vocabulary},"
        f" found {', '.join(rows.fieldnames or ['nothing'])}. The sample data"
        " comes with such a vocabulary.csv; the dataset's is on its site."
      )
    for row in rows:
      if not (row["Index"] or "").isdigit():
        raise errors.UserError(
          f"Expected a class index in the column Index of {vocabulary}, line"
          f" {rows.line_num}, found {row['Index']!r}."
        )
      if int(row["Index"]) < num_classes and row["Name"]:
        names[int(row["Index"])] = row["Name"]
  return names


def format_lines(video_ids, class_indexes, confidences) -> str:
  """Lines of the predictions: id,label confidence label confidence ...

  Args:
    video_ids: of each video, bytes.
    class_indexes: (videos, ranks) int.
    confidences: (videos, ranks) float, written with six digits.

  Returns:
    A line for each video.
  """
  videos, ranks = class_indexes.shape
  pairs = np.empty((videos, 2 * ranks), object)
  pairs[:, 0::2] = class_indexes
  pairs[:, 1::2] = confidences
  # One format a line takes half the time of one a number.
  line = f"%s,{' '.join(['%d %g'] * ranks)}\n"
  return "".join(
    line % (video_id.decode(), *row)
    for video_id, row in zip(video_ids, pairs.tolist(), strict=True)
  )


def write_video_predictions(
  prediction: Prediction,
  output_file: str,
  top_k: int,
  class_names: list[str] | None = None,
) -> None:
  """Writes the best classes of each video, highest confidence first.

  Ties go to the lower class index.

  Args:
    prediction: of whole videos.
    output_file: CSV: VideoId,LabelConfidencePairs.
    top_k: classes a video.
    class_names: adds a second file with the columns VideoId, Label, Name and
      Confidence, a line for each prediction.
  """
  top_k = min(top_k, prediction.num_classes)
  readable_file = readable_path(output_file) if class_names else None
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(_text_file(output_file))
    file.write("VideoId,LabelConfidencePairs\n")
    if readable_file:
      readable = csv.writer(
        stack.enter_context(_text_file(readable_file)), lineterminator="\n"
      )
      readable.writerow(["VideoId", "Label", "Name", "Confidence"])
    for batch, predictions in prediction.batches():
      predictions, video_ids = predictions.numpy(), batch["video_ids"].numpy()
      check_finite(predictions, video_ids)
      class_indexes, best = eval_util.top_k_classes(predictions, top_k)
      file.write(format_lines(video_ids, class_indexes, best))
      if readable_file:
        readable.writerows(
          [video_id.decode(), index, class_names[index], f"{confidence:g}"]
          for video_id, indexes, confidences in zip(
            video_ids, class_indexes.tolist(), best.tolist(), strict=True
          )
          for index, confidence in zip(indexes, confidences, strict=True)
        )


def readable_path(output_file: str) -> str:
  """The path of the file with class names beside an output file."""
  root, ending = os.path.splitext(output_file)
  return f"{root}_readable{ending}"


@contextlib.contextmanager
def _text_file(path):
  """A text file that is there under its name only once it is whole."""
  with (
    train_dirs.written_aside(path) as aside,
    tf.io.gfile.GFile(aside, "w") as file,
  ):
    yield file


# --------------------------------------------------------------------------
# Segments


def read_segment_classes(path: str, num_classes: int) -> np.ndarray:
  """Reads which classes to predict segments of.

  Args:
    path: CSV with a header and one class index a line; empty for all classes.
    num_classes: classes of the model.

  Returns:
    Class indices, int64, in the order of the file.

  Raises:
    errors.UserError: a line is no class of the model.
  """
  if not path:
    return np.arange(num_classes)
  classes = []
  with tf.io.gfile.GFile(path) as file:
    header, *lines = file.read().splitlines() or [""]
    if header.strip().isdigit() or not header:
      raise errors.UserError(
        f"Expected a header, such as Index, in {path}, line 1, found"
        f" {header!r}."
      )
    for number, line in enumerate(lines, start=2):
      index = line.strip()
      if not index.isdigit() or int(index) >= num_classes:
        raise errors.UserError(
          f"Expected a class index from 0 to {num_classes - 1} in {path}, line"
          f" {number}, found {line!r}."
        )
      classes.append(int(index))
  return np.array(classes, np.int64)


class BestSegments:
  """Keeps the best segments of each class, in bounded memory.

  Of equally confident segments, the earlier one in the input comes first.

  Args:
    num_classes: number of classes kept.
    limit: best segments kept for each.
  """

  def __init__(self, num_classes: int, limit: int):
    self._limit = limit
    self._confidences = np.zeros((0, num_classes), np.float32)
    self._segments = np.zeros((0, num_classes), np.int32)
    self._pending = []
    self._num_pending = 0
    self._num_segments = 0
    self._names = []

  def add(self, names: list[str], confidences: np.ndarray) -> None:
    """Takes segments, "id:start", and their confidences (segments, classes)."""
    self._names.extend(names)
    self._pending.append(confidences)
    self._num_pending += len(names)
    if self._num_pending > max(self._limit, 4096):
      self._merge()

  def _merge(self) -> None:
    count = self._num_pending
    new = np.arange(self._num_segments, self._num_segments + count)
    confidences = np.concatenate([self._confidences, *self._pending])
    segments = np.concatenate(
      [
        self._segments,
        np.broadcast_to(
          new[:, np.newaxis].astype(np.int32),
          (count, confidences.shape[1]),
        ),
      ]
    )
    order = np.argsort(-confidences, axis=0, kind="stable")[: self._limit]
    self._confidences = np.take_along_axis(confidences, order, axis=0)
    self._segments = np.take_along_axis(segments, order, axis=0)
    self._num_segments += count
    self._pending, self._num_pending = [], 0

  def ranked(self):
    """Yields for each class the names of its best segments, best first."""
    self._merge()
    for column in self._segments.T:
      yield [self._names[index] for index in column]


def write_segment_predictions(
  prediction: Prediction, output_file: str, classes: np.ndarray, limit: int
) -> None:
  """Writes the best segments of each class, highest confidence first.

  Every segment competes in every class: nothing is cut to a segment's best
  classes first.

  Args:
    prediction: of segments.
    output_file: CSV: Class,Segments; a line is class,id:start id:start ...
    classes: the classes to write, in this order.
    limit: most segments of a class.
  """
  best = BestSegments(len(classes), limit)
  for batch, predictions in prediction.batches():
    confidences = predictions.numpy()
    video_ids = batch["video_ids"].numpy()
    check_finite(confidences, video_ids)
    starts = batch["segment_start_times"].numpy()
    names = [
      f"{video_id.decode()}:{start}"
      for video_id, start in zip(video_ids, starts, strict=True)
    ]
    best.add(names, confidences[:, classes])
  with _text_file(output_file) as file:
    file.write("Class,Segments\n")
    for class_index, names in zip(classes, best.ranked(), strict=True):
      file.write(f"{class_index},{' '.join(names)}\n")


# --------------------------------------------------------------------------


def find_model() -> tuple[dict, str]:
  """Finds the model that the flags name.

  Returns:
    Its model_flags and its checkpoint's path.

  Raises:
    errors.UserError: there is none, or two are named.
  """
  if not FLAGS.input_model_tgz:
    model_flags = train_dirs.require_model_flags(FLAGS.train_dir)
    return model_flags, train_dirs.require_checkpoint(FLAGS.train_dir)
  if FLAGS["train_dir"].present:
    raise errors.UserError(
      "Expected one of --train_dir and --input_model_tgz, received both. Leave"
      " out the one that is not meant."
    )
  with startup.naming_flag("input_model_tgz"):
    checkpoint = train_dirs.extract_model_tgz(
      FLAGS.input_model_tgz, FLAGS.untar_model_dir
    )
  return train_dirs.require_model_flags(FLAGS.untar_model_dir), checkpoint


def main() -> None:
  """Predicts what the flags ask for."""
  model_flags, checkpoint = find_model()
  class_names = None
  if FLAGS.vocabulary:
    with startup.naming_flag("vocabulary"):
      class_names = read_class_names(
        FLAGS.vocabulary, model_flags["num_classes"]
      )
  if FLAGS.segment_labels:
    with startup.naming_flag("segment_label_ids_file"):
      classes = read_segment_classes(
        FLAGS.segment_label_ids_file, model_flags["num_classes"]
      )
  for name in ("output_file", "output_model_tgz"):
    train_dirs.check_no_own_file(getattr(FLAGS, name), name)
  pattern = sample_data.pattern_or_sample_data(
    FLAGS.input_data_pattern, "test", model_flags["frame_features"]
  )
  logging.info("Predicting %s with %s", pattern, checkpoint)
  prediction = Prediction(
    model_flags,
    checkpoint,
    readers.find_files(pattern, "input_data_pattern"),
    FLAGS.batch_size,
    FLAGS.segment_labels,
    distribution.choose("", None),
  )
  if FLAGS.output_model_tgz:
    with startup.naming_flag("output_model_tgz"):
      train_dirs.write_model_tgz(
        os.path.dirname(checkpoint), checkpoint, FLAGS.output_model_tgz
      )
    logging.info("Model: %s", FLAGS.output_model_tgz)
  if FLAGS.segment_labels:
    write_segment_predictions(
      prediction, FLAGS.output_file, classes, FLAGS.segment_max_pred
    )
  else:
    write_video_predictions(
      prediction, FLAGS.output_file, FLAGS.top_k, class_names
    )
    if class_names:
      logging.info("With names: %s", readable_path(FLAGS.output_file))
  logging.info("Predictions: %s", FLAGS.output_file)


if __name__ == "__main__":
  define_flags()
  startup.run(main)
