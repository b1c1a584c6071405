"""Tests of the program that averages models and trains a student on them."""

import hashlib
import json
import os
import shutil

import in_process
import numpy as np
import pytest
from absl import flags
from conftest import assert_same_state, checkpoint_values, folder_content
from make_records import frame_record, write_records
from tiny_runs import (
  NUM_TINY,
  TINY_FLAGS,
  TINY_FRAME_FLAGS,
  TINY_LABELS,
  tiny_dataset,
  tiny_labels,
  tiny_videos,
  train_tiny,
)

import errors
import eval_util
import train
from engine import best_checkpoint, prediction_file
from engine.checkpoints import require_checkpoint
from engine.dataset_card import read_card
from reports import bootstrap, ensemble

IDS = [f"v{number}".encode() for number in range(NUM_TINY)]


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bootstrap, "num_resamples", lambda videos: 100)
    yield


@pytest.fixture(scope="module")
def runs(tiny_files, tmp_path_factory):
  """Train_dirs of two video-level models."""
  folder = tmp_path_factory.mktemp("runs")
  train_tiny(folder / "short", tiny_files, max_steps=2)
  train_tiny(
    folder / "long",
    tiny_files,
    max_steps=60,
    num_epochs=0,
    seed=1,
    base_learning_rate=0.1,
  )
  return folder


@pytest.fixture(scope="module")
def frame_level_run(tiny_frame_files, tmp_path_factory):
  """The train_dir of a frame-level model."""
  train_dir = tmp_path_factory.mktemp("frames") / "frames"
  train_tiny(train_dir, tiny_frame_files, TINY_FRAME_FLAGS, max_steps=9)
  return train_dir


def pattern_of(files) -> str:
  return ",".join(files)


def results_in(folder) -> dict:
  return json.loads((folder / ensemble.RESULTS_FILE).read_text())


@pytest.fixture(scope="module")
def two_models(runs, tiny_files, tmp_path_factory):
  """(output_dir, log) of two video-level models."""
  folder = tmp_path_factory.mktemp("two")
  log = in_process.run(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={folder}",
    "--top_k=4",
  )
  return folder, log


def paths_in(folder, names=("short", "long")) -> list[str]:
  """The files of predictions of models."""
  kept = folder / "predictions"
  return [str(*kept.glob(f"validate-{name}-*.npz")) for name in names]


def predictions_in(folder, name) -> np.ndarray:
  """The predictions of a model, in the order of IDS."""
  (path,) = paths_in(folder, [name])
  with np.load(path) as found:
    assert found["video_ids"].tolist() == IDS
    return found["predictions"]


def test_numbers_of_another_origin_stay(runs, tiny_files, tmp_path):
  numbers = tmp_path / "ensemble.json"
  numbers.write_text('{"mine": 1}')
  line = in_process.run_into_error(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={tmp_path}",
  )
  assert f"in {numbers}, received something else" in line
  assert folder_content(tmp_path) == {"ensemble.json": b'{"mine": 1}'}


def test_scores_by_a_slow_way(two_models):
  folder, log = two_models
  found = results_in(folder)
  is_scored = np.array(
    [hashlib.sha256(video_id).digest()[7] % 2 for video_id in IDS], bool
  )
  fitting, scored = ~is_scored, is_scored
  assert found["videos_to_fit_on"] == fitting.sum()
  assert found["videos_to_score_on"] == scored.sum()
  assert fitting.sum() + scored.sum() == NUM_TINY
  short, long = (predictions_in(folder, name) for name in ("short", "long"))

  def entropy(weight):
    p = (weight * short + (1 - weight) * long)[fitting].astype(np.float64)
    return (
      -np.log(np.where(TINY_LABELS[fitting], p, 1 - p) + 1e-5).sum(1).mean()
    )

  grid = np.linspace(0, 1, 1001)
  best = min(grid, key=entropy)
  by_name = {system["name"]: system for system in found["systems"]}
  weights = by_name["weighted mean"]["weights"]
  assert weights["short"] == pytest.approx(best, abs=0.005)
  gaps = [
    slow_gap(one[fitting], TINY_LABELS[fitting], 4) for one in (short, long)
  ]
  chosen = ("short", "long")[int(np.argmax(gaps))]
  assert found["gains_are_over"] == chosen
  mixed = weights["short"] * short + weights["long"] * long
  for name, values in {
    "short": short,
    "long": long,
    "plain mean": (short + long) / 2,
    "weighted mean": mixed,
  }.items():
    gap = slow_gap(values[scored], TINY_LABELS[scored], 4)
    assert by_name[name]["gap"] == pytest.approx(gap, rel=1e-5)
    hit = eval_util.calculate_hit_at_one(values[scored], TINY_LABELS[scored])
    assert by_name[name]["avg_hit_at_one"] == pytest.approx(hit)
    gain = by_name[name]["gains"]["gap"]
    assert gain["mean"] == pytest.approx(gap - by_name[chosen]["gap"], abs=1e-6)
    assert f"{gap:.4f}" in log
  assert f"Best model on the first half: {chosen}." in log
  assert f"{fitting.sum()} to fit on, {scored.sum()} to score on" in log
  assert "Weights with the least cross entropy" in log


def slow_gap(predictions, labels, top_k) -> float:
  """GAP by its definition, one prediction after the other."""
  pairs, positives = [], 0
  for row, is_label in zip(predictions.tolist(), labels.tolist(), strict=True):
    best = sorted(range(len(row)), key=lambda index: (-row[index], index))
    pairs += [(row[index], is_label[index]) for index in best[:top_k]]
    positives += sum(is_label)
  hits, total = 0, 0.0
  for rank, (_, hit) in enumerate(sorted(pairs, key=lambda pair: -pair[0]), 1):
    hits += hit
    total += hit * hits / rank
  return total / positives


def test_labels_that_score_do_not_move_the_weights(
  two_models, tiny_vectors, tmp_path
):
  folder, _ = two_models

  def fitted_with(name, labels_of) -> tuple[list, str, float]:
    records = tiny_videos(tiny_vectors, labels_of)
    in_process.run(
      "reports.ensemble",
      f"--predictions={pattern_of(paths_in(folder))}",
      f"--eval_data_pattern={write_records(tmp_path / name, records)}",
      f"--output_dir={tmp_path}/{name}_out",
      "--top_k=4",
    )
    found = results_in(tmp_path / f"{name}_out")
    weighted = found["systems"][-1]
    weights = list(weighted["weights"].values())
    return weights, found["gains_are_over"], weighted["gap"]

  def turned(number):  # others, for the half that scores
    labels = tiny_labels(number)
    is_scored = ensemble_hash(IDS[number])
    return sorted((index + 1) % 6 for index in labels) if is_scored else labels

  weights, best, gap = fitted_with("same", tiny_labels)
  weighted = results_in(folder)["systems"][-1]
  assert weights == list(weighted["weights"].values())
  other_weights, other_best, other_gap = fitted_with("other", turned)
  assert (other_weights, other_best) == (weights, best)
  assert other_gap != pytest.approx(gap, rel=0.01)


def test_a_second_call_predicts_nothing(two_models, runs, tiny_files):
  folder, _ = two_models
  before = folder_content(folder)
  log = in_process.run(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={folder}",
    "--top_k=4",
  )
  assert "Predicting" not in log
  assert folder_content(folder) == before


def test_files_of_predictions_give_the_same_scores(
  two_models, runs, tiny_files, tmp_path
):
  for name, files in (("short", tiny_files), ("long", tiny_files[::-1])):
    in_process.run(
      "inference",
      f"--train_dir={runs}/{name}",
      f"--input_data_pattern={pattern_of(files)}",
      f"--output_file={tmp_path}/{name}.npz",
      "--all_classes",
    )
  log = in_process.run(
    "reports.ensemble",
    f"--predictions={tmp_path}/short.npz,{tmp_path}/long.npz",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={tmp_path}",
    "--top_k=4",
  )
  found = results_in(tmp_path)["systems"]
  expected = results_in(two_models[0])["systems"]
  for one, other in zip(found, expected, strict=True):
    for name in ("gap", "map", "avg_loss", "avg_perr"):
      assert one[name] == pytest.approx(other[name], rel=1e-5)
    assert one["weight_bytes"] is None
    assert one["gains"]["gap"] == pytest.approx(other["gains"]["gap"])
  assert "short.npz" in log


@pytest.mark.slow
def test_models_of_both_levels(
  runs, frame_level_run, tiny_files, tiny_frame_files, tmp_path
):
  given = (
    "reports.ensemble",
    f"--train_dirs={runs}/long,{frame_level_run}",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={tmp_path}/out",
  )
  line = in_process.run_into_error(*given)
  assert "Expected --frame_eval_data_pattern where models of both" in line
  assert not (tmp_path / "out").exists()
  in_process.run(
    *given, f"--frame_eval_data_pattern={pattern_of(tiny_frame_files)}"
  )
  names = [one["name"] for one in results_in(tmp_path / "out")["systems"]]
  assert names == ["long", "frames", "plain mean", "weighted mean"]


@pytest.mark.slow
def test_the_sample_data_serve_both_levels(tmp_path):
  for model, level in (("LogisticModel", 0), ("FrameLevelLogisticModel", 1)):
    in_process.run(
      "train",
      f"--train_dir={tmp_path}/{level}",
      f"--model={model}",
      f"--frame_features={level}",
      "--max_steps=1",
    )
  in_process.run(
    "reports.ensemble",
    f"--train_dirs={tmp_path}/0,{tmp_path}/1",
    f"--output_dir={tmp_path}/out",
  )
  found = results_in(tmp_path / "out")
  assert found["videos_to_fit_on"] + found["videos_to_score_on"] == 120


# --------------------------------------------------------------------------
# Predictions to submit


def test_a_csv_and_an_npz_of_the_weighted_mean(
  two_models, runs, tiny_files, tmp_path
):
  folder, _ = two_models
  weights = results_in(folder)["systems"][-1]["weights"]
  expected = sum(
    weight * predictions_in(folder, name)[13:]
    for name, weight in weights.items()
  )
  members = f"--train_dirs={runs}/short,{runs}/long"
  for name in ("x.csv", "x.npz"):
    log = in_process.run(
      "reports.ensemble",
      members,
      f"--eval_data_pattern={pattern_of(tiny_files)}",
      f"--input_data_pattern={tiny_files[1]}",
      f"--output_dir={folder}",
      f"--output_file={tmp_path}/{name}",
      "--top_k=4",
    )
    assert f"Predictions of the weighted mean: {tmp_path}/{name}" in log
  heads, *lines = (tmp_path / "x.csv").read_text().splitlines()
  assert heads == "VideoId,LabelConfidencePairs"
  assert len(lines) == NUM_TINY - 13
  for line, video_id, row in zip(lines, IDS[13:], expected, strict=True):
    found_id, pairs = line.split(",")
    assert found_id == video_id.decode()
    words = pairs.split()
    best = np.argsort(-row, kind="stable")[:4]
    assert [int(word) for word in words[::2]] == best.tolist()
    np.testing.assert_allclose(
      [float(word) for word in words[1::2]], row[best], rtol=1e-5
    )
  found = prediction_file.read_predictions(str(tmp_path / "x.npz"))
  assert found.video_ids.tolist() == IDS[13:]
  np.testing.assert_allclose(found.predictions, expected, atol=1e-6)
  # The same of files of predictions, for the wanted videos alone.
  in_process.run(
    "reports.ensemble",
    f"--predictions={pattern_of(paths_in(folder))}",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--input_data_pattern={tiny_files[1]}",
    f"--output_dir={tmp_path}",
    f"--output_file={tmp_path}/y.csv",
    "--top_k=4",
  )
  assert (tmp_path / "y.csv").read_text() == (tmp_path / "x.csv").read_text()


def test_the_best_checkpoints_are_averaged(runs, tiny_files, tmp_path):
  for name in ("short", "long"):
    shutil.copytree(runs / name, tmp_path / name)
    train_dir = str(tmp_path / name)
    best_checkpoint.consider(
      train_dir,
      require_checkpoint(train_dir),
      *("gap", 0.5),
      {"files": "", "pattern": pattern_of(tiny_files)},
    )
  log = in_process.run(
    "reports.ensemble",
    f"--train_dirs={tmp_path}/short,{tmp_path}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={tmp_path}/out",
    "--checkpoint=best",
  )
  assert f"with {tmp_path}/short/best/model.ckpt-2" in log
  for name in ("short", "long"):
    assert f"The best checkpoint in {tmp_path}/{name} was chosen by gap" in log


# --------------------------------------------------------------------------
# Students


@pytest.fixture(scope="module")
def taught_files(tiny_vectors, tmp_path_factory):
  """A file with the videos of tiny_files under other ids."""
  folder = tmp_path_factory.mktemp("taught")
  return [write_records(folder / "a", tiny_videos(tiny_vectors, prefix="t"))]


@pytest.fixture(scope="module")
def student(runs, tiny_files, taught_files, tmp_path_factory):
  """(folder, log, command) of a student of two models, after 5 of 14 steps."""
  folder = tmp_path_factory.mktemp("student")
  command = [
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={folder}/out",
    "--distill_to=MoeModel",
    "--moe_num_mixtures=3",
    f"--train_data_pattern={pattern_of(taught_files)}",
    f"--train_dir={folder}/model",
    "--teacher_weight=0.7",
    "--batch_size=5",
    "--num_epochs=3",
    "--xla=False",
  ]
  log = in_process.run(*command, "--max_steps=5")
  return folder, log, command


def test_a_student_is_scored_beside_its_teachers(student):
  folder, log, _ = student
  found = results_in(folder / "out")["student"]
  values = predictions_in(folder / "out", "model")
  scored = np.array([ensemble_hash(video_id) for video_id in IDS], bool)
  gap = eval_util.calculate_gap(values[scored], TINY_LABELS[scored], 20)
  assert found["gap"] == pytest.approx(gap, rel=1e-5)
  systems = {one["name"]: one for one in results_in(folder / "out")["systems"]}
  assert found["gains_over_weighted_mean"]["gap"]["mean"] == pytest.approx(
    gap - systems["weighted mean"]["gap"], abs=1e-6
  )
  assert "GAP gained by the student over the weighted mean (95%): " in log
  assert found["weight_bytes"] > 0
  assert found["videos_per_second"] > 0


def ensemble_hash(video_id) -> int:
  return hashlib.sha256(video_id).digest()[7] % 2


def test_a_student_is_not_evaluated_while_it_trains(student):
  folder, _, _ = student
  train_dir = folder / "model"
  record = json.loads((train_dir / "run.json").read_text())
  (start,) = record["starts"]
  assert start["command"][:3] == ["python", "-m", "reports.ensemble"]
  assert not record["settings"]["eval_data_pattern"]
  assert not (train_dir / "evaluations.json").exists()
  assert not (train_dir / "best.json").exists()


def test_a_student_is_not_trained_on_videos_that_score_it(
  two_models, runs, tiny_files, tiny_vectors, tmp_path, monkeypatch
):
  folder, _ = two_models
  given = (
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={folder}",
    "--distill_to=LogisticModel",
    f"--train_dir={tmp_path}/model",
  )
  line = in_process.run_into_error(
    *given, f"--train_data_pattern={tiny_files[1]}"
  )
  assert f"do not score, received {tiny_files[1]} as both" in line
  # The same videos in another file; they are not predicted first.
  monkeypatch.setattr(ensemble, "make_teacher", None)
  same = write_records(tmp_path / "same", tiny_videos(tiny_vectors))
  line = in_process.run_into_error(*given, f"--train_data_pattern={same}")
  scored = [one.decode() for one in IDS if ensemble_hash(one)]
  text = f"received {len(scored)} that are both, such as {scored[0]}."
  assert text in line
  assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("is_typed", [False, True])
def test_a_student_does_not_see_the_videos_that_score_it(
  two_models, runs, tiny_files, tmp_path, monkeypatch, is_typed
):
  """Neither those of --dataset_dir nor those of --eval_data_pattern."""
  seen = {}

  def noted(program):
    seen["pattern"] = flags.FLAGS.eval_data_pattern
    train._find_evaluation_files(read_card(flags.FLAGS.dataset_dir))
    seen["found"] = flags.FLAGS.eval_data_pattern
    raise errors.UserError("Expected this.")

  monkeypatch.setattr(train, "train_by_flags", noted)
  monkeypatch.setattr(ensemble, "make_teacher", lambda *given: None)
  monkeypatch.setattr(ensemble, "_check_unseen", lambda *given: None)
  (tmp_path / "data").mkdir()
  more = [f"--eval_data_pattern={pattern_of(tiny_files)}"] if is_typed else []
  line = in_process.run_into_error(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--dataset_dir={tiny_dataset(tmp_path / 'data', tiny_files)}",
    f"--output_dir={tmp_path}/out",
    "--distill_to=LogisticModel",
    f"--train_dir={tmp_path}/model",
    *more,
  )
  assert "Expected this." in line
  assert seen == {"pattern": "", "found": ""}


def test_a_student_has_the_data_of_its_teachers(student):
  folder, _, _ = student
  found = json.loads((folder / "model" / "model_flags.json").read_text())
  assert found["model"] == "MoeModel"
  assert found["moe_num_mixtures"] == 3
  for name in ("num_classes", "feature_names", "feature_sizes"):
    assert found[name] == TINY_FLAGS[name]


def test_a_student_learns_from_the_mean_of_its_teachers(student):
  folder, _, _ = student
  weights = {one["name"]: one for one in results_in(folder / "out")["systems"]}[
    "weighted mean"
  ]["weights"]
  (path,) = (folder / "out" / "predictions").glob("teacher-*.npz")
  expected = sum(
    weight * predictions_in(folder / "out", name)
    for name, weight in weights.items()
  )
  found = prediction_file.read_predictions(str(path))
  np.testing.assert_allclose(found.predictions, expected, atol=1e-3)


def test_a_student_of_another_teacher_is_no_student_of_this_one(
  student, runs, taught_files, tmp_path, monkeypatch
):
  folder, _, command = student
  old = shutil.copy(taught_files[0], tmp_path / "old")
  monkeypatch.setattr(ensemble, "make_teacher", None)  # it is not needed
  before = folder_content(folder / "model")
  other = f"--train_data_pattern={old}"
  line = in_process.run_into_error(*command, other)
  assert f"new --train_dir for a student of {folder}/out/predictions/t" in line
  assert f"received {folder}/model, whose model had the teacher /" in line
  shutil.copytree(runs / "short", tmp_path / "plain")
  plain = f"--train_dir={tmp_path}/plain"
  line = in_process.run_into_error(*command, plain)
  assert "whose model had the teacher none, of other models" in line
  assert folder_content(folder / "model") == before


@pytest.mark.slow
def test_a_stopped_student_continues_exactly(
  student, tiny_files, taught_files, tmp_path
):
  folder, _, command = student
  log = in_process.run(*command)
  assert "Predicting" in log  # the student went on
  assert "to learn from are there" in log
  model_flags = json.loads((folder / "model" / "model_flags.json").read_text())
  train_tiny(
    tmp_path / "whole",
    taught_files,
    model_flags,
    teacher=str(*(folder / "out" / "predictions").glob("teacher-*.npz")),
    teacher_weight=0.7,
    num_epochs=3,
  )
  assert_same_state(
    folder / "model" / "model.ckpt-14", tmp_path / "whole" / "model.ckpt-14"
  )
  before = checkpoint_values(folder / "model")
  assert "Nothing to do" in in_process.run(*command)
  after = checkpoint_values(folder / "model")
  assert before.keys() == after.keys()
  # It is a run as any other.
  log = in_process.run(
    "eval",
    f"--train_dir={folder}/model",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    "--run_once",
  )
  assert "epoch/eval number 14" in log
  in_process.run("export_model", f"--train_dir={folder}/model")
  assert os.path.exists(folder / "model" / "export" / "step_14")


@pytest.mark.slow
def test_a_student_of_the_other_level(
  runs, tiny_files, tiny_frame_files, taught_files, tmp_path
):
  frames = [
    frame_record(
      f"t{number}",
      tiny_labels(number),
      rgb=np.full((5, 4), number, np.uint8),
      audio=np.full((5, 3), number, np.uint8),
    )
    for number in range(NUM_TINY)
  ]
  taught_frames = write_records(tmp_path / "frames", frames)
  in_process.run(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--frame_eval_data_pattern={pattern_of(tiny_frame_files)}",
    f"--train_data_pattern={pattern_of(taught_files)}",
    f"--frame_train_data_pattern={taught_frames}",
    f"--output_dir={tmp_path}/out",
    "--distill_to=FrameLevelLogisticModel",
    "--frame_features",
    "--feature_names=rgb,audio",
    "--feature_sizes=4,3",
    f"--train_dir={tmp_path}/model",
    "--max_steps=2",
    "--xla=False",
  )
  found = json.loads((tmp_path / "model" / "model_flags.json").read_text())
  assert found["frame_features"] is True
  assert "student" in results_in(tmp_path / "out")


# --------------------------------------------------------------------------
# Errors


def test_records_are_left_out_by_all_or_by_none(
  runs, tiny_files, taught_files, tmp_path
):
  line = in_process.run_into_error(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--train_data_pattern={pattern_of(taught_files)}",
    "--distill_to=LogisticModel",
    "--feature_names=mean_rgb",
    "--feature_sizes=4",
    f"--train_dir={tmp_path}/model",
    f"--output_dir={tmp_path}/out",
    "--skip_corrupt",
  )
  assert "without --skip_corrupt where a student and its models read" in line
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("given", "part"),
  [
    ([], "Expected one of --train_dirs and --predictions, received none"),
    (["--train_dirs={runs}/short"], "two or more different models"),
    (["--train_dirs={runs}/short,{runs}/./short"], "two or more different"),
    (["--train_dirs={runs}/short,{runs}/no"], "--train_dir={runs}/no"),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--predictions=x.npz"],
      "received both",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--train_dir=x"],
      "Expected --distill_to=MODEL with --train_dir=x",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--model=MoeModel"],
      "without --model, received --model=MoeModel: --distill_to names",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--distill_to=MoeModel"],
      "folder of the student's own as --train_dir with --distill_to",
    ),
    (
      [
        *("--train_dirs={runs}/short,{runs}/long", "--distill_to=MoeModel"),
        "--train_dir={runs}/long/",
      ],
      "folder of the student's own",
    ),
    (
      [
        *("--predictions=x.npz,y.npz", "--distill_to=MoeModel"),
        "--train_dir={runs}/new",
      ],
      "Expected --train_dirs with --distill_to, received --predictions",
    ),
    (["--predictions=/no/x.npz,/no/y.npz"], "/no/x.npz"),
    (
      ["--predictions=x.npz,y.npz", "--output_file=./y.npz"],
      "Expected a file of its own as --output_file, received ./y.npz",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--check"],
      "without --check, received --check=True: it is for train.py",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--eval_steps=5"],
      "without --eval_steps, received --eval_steps=5: the student is not",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--early_stopping=2"],
      "without --early_stopping, received --early_stopping=2: the student",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--output_file=x.txt"],
      "ends in .csv or .npz as --output_file, received x.txt",
    ),
    (
      [
        *("--train_dirs={runs}/short,{runs}/long", "--output_file=x.csv"),
        "--input_data_pattern=/no/such*",
      ],
      "--input_data_pattern=/no/such*",
    ),
    (
      ["--predictions=x.npz,y.npz", "--checkpoint=best"],
      "Expected one of --checkpoint and --predictions, received both",
    ),
    (
      ["--train_dirs={runs}/short,{runs}/long", "--checkpoint=best"],
      "Expected a best checkpoint in --train_dir={runs}/short, found none",
    ),
  ],
)
def test_flags_that_do_not_go_together(runs, tmp_path, given, part):
  line = in_process.run_into_error(
    "reports.ensemble",
    *(flag.format(runs=runs) for flag in given),
    f"--output_dir={tmp_path}/out",
  )
  assert part.format(runs=runs) in line
  assert not (tmp_path / "out").exists()


def test_models_of_other_classes(runs, tiny_files, tmp_path):
  train_tiny(
    tmp_path / "five",
    tiny_files,
    {**TINY_FLAGS, "label_subset": [0, 1, 2]},
    max_steps=1,
  )
  line = in_process.run_into_error(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{tmp_path}/five",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={tmp_path}/out",
  )
  assert "received 6 of short and 3 of five, which are not the same" in line
  assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_exist_is_refused_before_training(
  runs, tiny_files, tmp_path
):
  line = in_process.run_into_error(
    "reports.ensemble",
    f"--train_dirs={runs}/short,{runs}/long",
    f"--eval_data_pattern={pattern_of(tiny_files)}",
    f"--output_dir={tmp_path}/out",
    "--distill_to=NoSuchModel",
    f"--train_dir={tmp_path}/model",
  )
  assert "'NoSuchModel'" in line
  assert not (tmp_path / "out").exists()
