"""Averages the predictions of several models, and trains a student on them.

python -m reports.ensemble --train_dirs=a,b,c fits the weights of the average on
one half of the videos of --eval_data_pattern and scores it on the other half,
beside each model and the plain mean. --distill_to=MODEL then trains one model
on the labels and the ensemble's predictions; it takes the flags of train.py.
See docs/ensembles.md.
"""

import dataclasses
import os
from collections.abc import Sequence

import startup  # isort: skip
import numpy as np
from absl import flags, logging

import errors
import models
import program_flags
import train
import training_flags
from data_tools import sample_data
from engine import best_checkpoint, distribution, model_building
from engine import train_dir as train_dirs
from engine.checkpoints import latest_checkpoint
from engine.data_files import check_not_used, find_files
from engine.dataset_card import DatasetCard
from engine.files import write_json
from engine.prediction_file import VideoIndex, read_predictions
from engine.run_record import read_run_record
from engine.skipped import Policy
from engine.teacher import check_loss
from reports import ensemble_output
from reports.ensemble_output import RESULTS_FILE
from reports.ensemble_results import (
  Fit,
  Source,
  System,
  as_json,
  check_same_classes,
  fit,
  fit_text,
  names_of,
  score_student,
  score_systems,
  table,
)
from reports.mixtures import (
  JoinedPredictions,
  LabeledVideos,
  halves,
  read_labeled_videos,
  read_video_ids,
)
from reports.model_predictions import (
  Member,
  Predicted,
  Workplace,
  check_missing,
  make_teacher,
  predict,
  teacher_path,
)
from reports.video_scores import PairedScores, gain_text

FLAGS = flags.FLAGS

# Flags of train.py that are for the ensemble too.
_FOR_BOTH = {
  "dataset_dir",
  "feature_ranges",
  "max_corrupt_fraction",
  "num_classes",
  "num_gpu",
  "skip_corrupt",
}
_NOT_EVALUATED = (
  "the student is not evaluated while it trains, by the videos that score it"
)
# Those that this program sets, and those that make no sense here.
_NOT_TO_TYPE = {
  "model": "--distill_to names the student",
  "teacher": "the ensemble is the teacher",
  "check": "it is for train.py",
  "segment_labels": "an ensemble predicts whole videos",
  "eval_steps": _NOT_EVALUATED,
  "early_stopping": _NOT_EVALUATED,
  "best_metric": _NOT_EVALUATED,
}
# The flags that name files of each split.
_PATTERN_FLAGS = {
  "train": "train_data_pattern",
  "validate": "eval_data_pattern",
  "test": "input_data_pattern",
}


# --------------------------------------------------------------------------
# Flags


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines the flags of this program."""
  model = program_flags.Subject(program_flags.MODEL, flag_values)
  model.list("train_dirs", [], "Folders of the trained models to average.")
  program_flags.define_checkpoint(flag_values)
  model.list(
    "predictions",
    [],
    "In the place of --train_dirs: files of inference.py --all_classes for the"
    " videos of --eval_data_pattern, and of --input_data_pattern with"
    " --output_file.",
  )
  data = program_flags.Subject(program_flags.DATA, flag_values)
  data.string(
    "eval_data_pattern",
    "",
    "Glob pattern of labeled TFRecord files, or several separated by commas: a"
    " half to fit weights on, a half to score on; empty: the built-in sample"
    " data.",
  )
  data.string(
    "input_data_pattern",
    "",
    "Glob pattern of TFRecord files to predict for --output_file, or several"
    " separated by commas; empty: the built-in sample data.",
  )
  for name, what in (
    ("frame_eval_data_pattern", "--eval_data_pattern"),
    ("frame_train_data_pattern", "--train_data_pattern"),
    ("frame_input_data_pattern", "--input_data_pattern"),
  ):
    data.string(
      name,
      "",
      f"Where models of both levels are averaged, the frame-level files with"
      f" the videos of {what}, which then names video-level ones.",
    )
  output = program_flags.Subject(program_flags.OUTPUT, flag_values)
  output.string(
    "output_dir",
    "/tmp/yt8m_ensemble/",
    f"Folder for {RESULTS_FILE} and for predictions, 4 bytes for each model,"
    " video and class.",
  )
  output.string(
    "output_file",
    "",
    "File to write the weighted mean's predictions of --input_data_pattern to:"
    " .csv with the --top_k best classes of each video, as inference.py writes"
    " it, or .npz with all classes, 4 bytes for each; empty: none.",
  )
  output.integer(
    "top_k",
    20,
    "Best predictions of each video that GAP ranks and a .csv has.",
    lower_bound=1,
  )
  output.string(
    "distill_to",
    "",
    "Class in the model files to train on the labels and the ensemble's"
    " predictions of --train_data_pattern, in --train_dir and with the flags of"
    " train.py; empty: none.",
  )


def _flags_of_training() -> flags.FlagValues:
  """The flags of train.py."""
  others = flags.FlagValues()
  train.define_flags(others)
  return others


def accept_flags() -> None:
  """Takes the flags of train.py, which are the student's."""
  others = _flags_of_training()
  for name in others:
    if name not in FLAGS:
      FLAGS[name] = others[name]
      title = str(others.find_module_defining_flag(name))
      FLAGS.register_flag_by_module(title, others[name])


def _log_flags_without_effect() -> None:
  """Logs which typed flags are for a student, where there is none."""
  own = flags.FlagValues()
  define_flags(own)
  of_student = set(_flags_of_training()) - set(own) - _FOR_BOTH
  typed = sorted(f"--{name}" for name in of_student if FLAGS[name].present)
  if typed:
    logging.info("No effect without --distill_to: %s.", ", ".join(typed))


def _log_patterns_without_effect() -> None:
  """Logs which typed files are for --output_file, where it is not given."""
  names = ("input_data_pattern", "frame_input_data_pattern")
  typed = [f"--{name}" for name in names if FLAGS[name].present]
  if typed and not FLAGS.output_file:
    logging.info("No effect without --output_file: %s.", ", ".join(typed))


def _check_flags() -> None:
  """Checks that the flags go together.

  Raises:
    errors.UserError: they do not.
  """
  if bool(FLAGS.train_dirs) == bool(FLAGS.predictions):
    both = "both" if FLAGS.train_dirs else "none"
    raise errors.UserError(
      f"Expected one of --train_dirs and --predictions, received {both}. Name"
      " the models to average, such as --train_dirs=a,b,c."
    )
  given = FLAGS.train_dirs or FLAGS.predictions
  paths = [os.path.abspath(path) for path in given]
  if len(set(paths)) < max(2, len(paths)):
    raise errors.UserError(
      f"Expected two or more different models, received {', '.join(given)}."
      " Name others, with commas between them."
    )
  for name, reason in _NOT_TO_TYPE.items():
    if FLAGS[name].present:
      raise errors.UserError(
        f"Expected a command without --{name}, received"
        f" --{name}={FLAGS[name].value}: {reason}. Leave it out."
      )
  if FLAGS.output_file:
    ensemble_output.check_path(FLAGS.output_file)
    check_not_used(FLAGS.output_file, "output_file", FLAGS.predictions)
  if FLAGS.predictions and FLAGS["checkpoint"].present:
    raise errors.UserError(
      "Expected one of --checkpoint and --predictions, received both. Files of"
      " predictions are of one checkpoint each: leave --checkpoint out."
    )
  if not FLAGS.distill_to:
    if FLAGS["train_dir"].present:
      raise errors.UserError(
        f"Expected --distill_to=MODEL with --train_dir={FLAGS.train_dir}, the"
        " folder of the student, received none. The models to average are"
        " --train_dirs=a,b."
      )
    _log_flags_without_effect()
    return
  if FLAGS.predictions:
    raise errors.UserError(
      "Expected --train_dirs with --distill_to, received --predictions. A"
      " student learns from what the models say about the training videos: name"
      " the folders of the models."
    )
  is_new = os.path.abspath(FLAGS.train_dir) not in paths
  if not FLAGS["train_dir"].present or not is_new:
    raise errors.UserError(
      "Expected a folder of the student's own as --train_dir with --distill_to,"
      f" received {FLAGS.train_dir}. Name a new one."
    )


def _files(split: str, is_frame_level: bool, levels_mix: bool) -> list[str]:
  """The files of a split for a model.

  Args:
    split: "train", "validate" or "test".
    is_frame_level: of the model.
    levels_mix: whether there are models of the other level.

  Raises:
    errors.UserError: there are none.
  """
  name = _PATTERN_FLAGS[split]
  if is_frame_level and levels_mix and FLAGS[name].value:
    name = f"frame_{name}"
    if not FLAGS[name].value:
      raise errors.UserError(
        f"Expected --{name} where models of both levels are used, received"
        " none. Name frame-level files with the same videos."
      )
  pattern = sample_data.pattern_or_sample_data(
    str(FLAGS[name].value), split, is_frame_level
  )
  return find_files(pattern, name)


# --------------------------------------------------------------------------
# The student


def _check_student(members: Sequence[Member], card: DatasetCard | None) -> None:
  """Checks what can be known of a student before long work.

  Args:
    members: the models of the ensemble.
    card: see _find_members.

  Raises:
    errors.UserError: it cannot be trained.
  """
  try:
    models.find_class_by_name(FLAGS.distill_to)
  except ValueError as error:
    text = str(error).replace("--model", "--distill_to")
    raise errors.UserError(text) from error
  FLAGS.model = FLAGS.distill_to
  _complete_student_flags(members)
  program_flags.apply_preset()
  train_dirs.check_no_file(FLAGS.train_dir)
  model_flags = training_flags.model_flags_from_flags(card)
  check_loss(model_flags)
  model_building.build_model(model_flags, quantized=None)
  _check_same_records([model_flags, *(one.model_flags for one in members)])
  levels_mix = _levels_mix(members)
  for level in {FLAGS.frame_features, *(one.is_frame_level for one in members)}:
    scored = set(map(os.path.realpath, _files("validate", level, levels_mix)))
    for file in _files("train", level, levels_mix):
      if os.path.realpath(file) in scored:
        raise errors.UserError(
          f"Expected files to train on that do not score, received {file} as"
          " both. Name others as --train_data_pattern or --eval_data_pattern."
        )


def _check_same_records(models_flags: Sequence[dict]) -> None:
  """Checks that records left out are the same for a student and its teachers.

  Args:
    models_flags: the model_flags of each.

  Raises:
    errors.UserError: one may learn from a record that others cannot read.
  """
  read = {(one["frame_features"], one["feature_names"]) for one in models_flags}
  if FLAGS.skip_corrupt and len(read) > 1:
    raise errors.UserError(
      "Expected a command without --skip_corrupt where a student and its models"
      " read different features, received it. The student may read a record"
      " that a model leaves out. Name files without such records; python -m"
      " data_tools.verify_data lists them."
    )


def _check_continued() -> None:
  """Checks that a student that continues keeps its --teacher.

  Raises:
    errors.UserError: it had another one, or none.
  """
  if FLAGS.start_new_model or not latest_checkpoint(FLAGS.train_dir):
    return
  record = read_run_record(FLAGS.train_dir) or {"settings": {}}
  old = record["settings"].get("teacher") or "none"
  if os.path.basename(old) != os.path.basename(FLAGS.teacher):
    raise errors.UserError(
      f"Expected a new --train_dir for a student of {FLAGS.teacher}, received"
      f" {FLAGS.train_dir}, whose model had the teacher {old}, of other models,"
      " checkpoints, weights or training files. Name another folder, or add"
      " --start_new_model to delete that model."
    )


def _check_unseen(seen_ids: np.ndarray, scored_ids: np.ndarray) -> None:
  """Checks that a student does not learn from the videos that score it.

  Args:
    seen_ids: of the videos to learn from.
    scored_ids: of the videos to score on.

  Raises:
    errors.UserError: names a video that is in both.
  """
  seen = np.flatnonzero(VideoIndex(seen_ids).rows_of(scored_ids) >= 0)
  if len(seen):
    first = bytes(scored_ids[seen[0]]).decode(errors="replace")
    raise errors.UserError(
      f"Expected videos to train on that do not score, received {len(seen)}"
      f" that are both, such as {first}. Name other files as"
      " --train_data_pattern or --eval_data_pattern."
    )


def train_student(
  members: Sequence[Member],
  fitted: Fit,
  workplace: Workplace,
  scored_ids: np.ndarray,
) -> Member:
  """Trains the student on what the ensemble says about the training videos.

  Args:
    members: the models of the ensemble.
    fitted: their weights.
    workplace: see make_teacher.
    scored_ids: of the videos to score the student on.

  Raises:
    errors.UserError: see train.py; a video is there to train and to score on.
  """
  levels_mix = _levels_mix(members)
  files_of = [
    _files("train", member.is_frame_level, levels_mix) for member in members
  ]
  given = (members, fitted.weights, files_of)
  FLAGS.teacher = teacher_path(*given, workplace.folder)
  _check_continued()
  if os.path.exists(FLAGS.teacher):
    seen_ids = read_predictions(FLAGS.teacher).video_ids
  else:
    # Those of video-level files are read faster, where there are both.
    level = all(member.is_frame_level for member in members)
    files = _files("train", level, levels_mix)
    seen_ids = read_video_ids(files, workplace.policy, "train_data_pattern")
  _check_unseen(seen_ids, scored_ids)
  make_teacher(*given, workplace)
  if FLAGS.frame_features and levels_mix:
    FLAGS.train_data_pattern = FLAGS.frame_train_data_pattern
  # Training must not choose by the videos that score it. A default may be the
  # validate split of --dataset_dir.
  FLAGS["eval_data_pattern"].unparse()
  FLAGS.set_default("eval_data_pattern", "")
  train.train_by_flags(["-m", "reports.ensemble"])
  return Member.find(FLAGS.train_dir)


def _levels_mix(members: Sequence[Member]) -> bool:
  """Whether models, with the student if there is one, are of both levels."""
  levels = {member.is_frame_level for member in members}
  if FLAGS.distill_to:
    levels.add(FLAGS.frame_features)
  return len(levels) > 1


def _complete_student_flags(members: Sequence[Member]) -> None:
  """Gives the flags of the data that are not typed the ensemble's values."""
  if not FLAGS["frame_features"].present:
    is_frame_level = all(member.is_frame_level for member in members)
    FLAGS.set_default("frame_features", is_frame_level)
  at_its_level = [
    member.model_flags
    for member in members
    if member.is_frame_level == FLAGS.frame_features
  ]
  like = at_its_level[0] if at_its_level else {}
  first = members[0].model_flags
  known = {"num_classes": first["num_classes"]}
  if models.are_exclusive(first):
    known["exclusive_classes"] = True
  if subset := first.get("label_subset"):
    known["label_subset"] = ",".join(map(str, subset))
  of_data = ("feature_names", "feature_sizes", "feature_ranges", "max_frames")
  known |= {name: like[name] for name in of_data if like.get(name)}
  for name, value in known.items():
    if not FLAGS[name].present:
      FLAGS.set_default(name, value)


# --------------------------------------------------------------------------
# The whole


def _sources_of_files(paths: Sequence[str]) -> list[Source]:
  """The models of --predictions."""
  with startup.naming_flag("predictions"):
    found = [read_predictions(path) for path in paths]
  names = names_of(paths)
  check_same_classes(names, [predictions.classes for predictions in found])
  return [
    Source(name, Predicted(path, predictions))
    for name, path, predictions in zip(names, paths, found, strict=True)
  ]


def _find_members(card: DatasetCard | None) -> list[Member]:
  """The models of --train_dirs, which read numbers as the data holds them.

  Args:
    card: of --dataset_dir, if it is given.

  Raises:
    errors.UserError: one has no checkpoint, or none that --checkpoint names.
  """
  members = []
  for train_dir in FLAGS.train_dirs:
    member = Member.find(train_dir, FLAGS.checkpoint)
    ranges = program_flags.ranges_of_data(member.model_flags, card)
    if ranges is not None:
      flags_here = {**member.model_flags, "feature_ranges": ranges}
      member = dataclasses.replace(member, model_flags=flags_here)
    members.append(member)
  return members


def _sources_of_members(
  members: Sequence[Member], workplace: Workplace
) -> list[Source]:
  """The models of --train_dirs, and their predictions."""
  names = names_of([member.train_dir for member in members])
  classes = [models.output_classes(member.model_flags) for member in members]
  check_same_classes(names, classes)
  levels_mix = _levels_mix(members)
  files_of = [
    _files("validate", member.is_frame_level, levels_mix) for member in members
  ]
  if FLAGS.checkpoint == best_checkpoint.BEST:
    for member, files in zip(members, files_of, strict=True):
      best_checkpoint.warn_of_choice(member.train_dir, files)
  return [
    Source(name, predict(member, files, "validate", workplace))
    for name, member, files in zip(names, members, files_of, strict=True)
  ]


def _read_labels(
  members: Sequence[Member], sources: Sequence[Source], policy: Policy
) -> LabeledVideos:
  """Reads the labels of --eval_data_pattern."""
  classes = sources[0].predictions.classes
  num_classes = int(classes.max()) + 1
  if members:
    num_classes = max(member.model_flags["num_classes"] for member in members)
  elif FLAGS["num_classes"].present:
    num_classes = max(num_classes, FLAGS.num_classes)
  level = bool(members) and members[0].is_frame_level
  files = _files("validate", level, _levels_mix(members))
  return read_labeled_videos(files, num_classes, classes, policy)


def _check_input(members: Sequence[Member]) -> None:
  """Checks that there are files to predict, before long work.

  Args:
    members: the models; none with --predictions.

  Raises:
    errors.UserError: there are none.
  """
  _log_patterns_without_effect()
  if not FLAGS.output_file:
    return
  program_flags.apply_dataset_dir("test", "input_data_pattern")
  levels_mix = _levels_mix(members)
  for level in {member.is_frame_level for member in members} or {False}:
    _files("test", level, levels_mix)


def _write_output(
  members: Sequence[Member],
  sources: Sequence[Source],
  fitted: Fit,
  workplace: Workplace,
) -> None:
  """Writes --output_file.

  Args:
    members: the models; none with --predictions.
    sources: their predictions of the labeled videos.
    fitted: their weights. A model of weight 0 predicts nothing.
    workplace: see predict.

  Raises:
    errors.UserError: a record or a prediction cannot be used; a model did not
      predict all videos.
  """
  used = np.flatnonzero(fitted.weights).tolist()
  found = [sources[one].predictions for one in used]
  if members:
    levels_mix = _levels_mix(members)
    found = []
    for member in (members[one] for one in used):
      files = _files("test", member.is_frame_level, levels_mix)
      found.append(predict(member, files, "test", workplace).predictions)
    video_ids = found[0].video_ids
  else:
    files = _files("test", is_frame_level=False, levels_mix=False)
    video_ids = read_video_ids(files, workplace.policy, "input_data_pattern")
  joined = JoinedPredictions(found, video_ids)
  check_missing(joined, video_ids, workplace.policy)
  ensemble_output.write_mean(
    FLAGS.output_file,
    joined,
    video_ids,
    fitted.weights[used],
    found[0].classes,
    FLAGS.top_k,
  )


def _write_results(fitted: Fit, num_scored: int, systems, more: dict) -> None:
  """Writes RESULTS_FILE.

  Args:
    fitted: what was decided.
    num_scored: videos that were scored.
    systems: of as_json.
    more: about the student.
  """
  path = os.path.join(FLAGS.output_dir, RESULTS_FILE)
  content = {
    "videos_to_fit_on": fitted.num_videos,
    "videos_weights_are_fitted_on": fitted.num_fitted,
    "videos_to_score_on": num_scored,
    "top_k": FLAGS.top_k,
    "gains_are_over": systems[fitted.best]["name"],
    "systems": systems,
  }
  write_json(path, {**content, **more})
  logging.info("All numbers: %s", path)


def _compare_student(
  student: System, best: System, weighted: System, names: Sequence[str]
) -> dict[str, dict]:
  """Prints the scores of a student; returns what RESULTS_FILE says of it."""
  systems = [best, weighted, student]
  comparison = PairedScores([system.scores.ranked() for system in systems])
  over_mean = comparison.gain(2, 1)
  print("\n".join(["", *table(systems, comparison, 0)]))
  print(
    f"GAP gained by the student over the weighted mean (95%):"
    f" {gain_text(over_mean['gap'])}"
  )
  *_, content = as_json(systems, comparison, 0, names)
  content["gains_over_weighted_mean"] = {
    metric: gain._asdict() for metric, gain in over_mean.items()
  }
  return {"student": content}


def _distill(
  members: Sequence[Member],
  fitted: Fit,
  labeled: LabeledVideos,
  scored: np.ndarray,
  workplace: Workplace,
) -> System:
  """Trains a student, and scores it on the videos that nothing was fitted on.

  Args:
    members: the models of the ensemble.
    fitted: their weights.
    labeled: the videos.
    scored: rows of those to score on.
    workplace: see make_teacher.
  """
  # Training changes flags that name them.
  files = _files("validate", FLAGS.frame_features, _levels_mix(members))
  scored_ids = labeled.video_ids[scored]
  student = train_student(members, fitted, workplace, scored_ids)
  predicted = predict(student, files, "validate", workplace)
  source = Source("student", predicted)
  return score_student(source, labeled, scored, FLAGS.top_k)


def main() -> None:
  """Fits, scores and, if asked for, distills an ensemble."""
  _check_flags()
  ensemble_output.check_results(FLAGS.output_dir)
  card = program_flags.apply_dataset_dir("validate", "eval_data_pattern")
  placement = distribution.choose("", FLAGS.num_gpu)
  members = _find_members(card)
  _check_input(members)
  if FLAGS.distill_to:
    program_flags.apply_dataset_dir("train", "train_data_pattern")
    _check_student(members, card)
  workplace = Workplace(
    os.path.join(FLAGS.output_dir, "predictions"),
    placement,
    Policy(FLAGS.skip_corrupt, FLAGS.max_corrupt_fraction),
  )
  if members:
    sources = _sources_of_members(members, workplace)
  else:
    sources = _sources_of_files(FLAGS.predictions)
  labeled = _read_labels(members, sources, workplace.policy)
  joined = JoinedPredictions(
    [source.predictions for source in sources], labeled.video_ids
  )
  check_missing(joined, labeled.video_ids, workplace.policy)
  known = np.flatnonzero(~joined.missing)
  fitting, scored = (known[half] for half in halves(labeled.video_ids[known]))
  fitted = fit(joined, labeled, fitting, FLAGS.top_k)
  names = [source.name for source in sources]
  print(fit_text(fitted, names, len(scored)))
  systems = score_systems(sources, joined, labeled, scored, fitted, FLAGS.top_k)
  comparison = PairedScores([system.scores.ranked() for system in systems])
  print("\n".join(table(systems, comparison, fitted.best)))
  results = as_json(systems, comparison, fitted.best, names)
  _write_results(fitted, len(scored), results, {})
  if FLAGS.output_file:
    _write_output(members, sources, fitted, workplace)
  if FLAGS.distill_to:
    student = _distill(members, fitted, labeled, scored, workplace)
    best, weighted = systems[fitted.best], systems[-1]
    more = _compare_student(student, best, weighted, names)
    _write_results(fitted, len(scored), results, more)


if __name__ == "__main__":
  define_flags()
  accept_flags()
  startup.run(main)
