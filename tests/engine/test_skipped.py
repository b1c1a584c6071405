"""Tests of engine.skipped, and of --skip_corrupt through the programs."""

import csv
import os
import time

import in_process
import pytest
from conftest import assert_names, error_of, event_tags
from make_records import small_frames, small_video, write_records

from engine import csv_cells, report
from engine.run import Run
from engine.skipped import STOP, Policy, SkippedRecords
from records.messages import BadRecordError

BAD = BadRecordError("wrong size", "expected 3 numbers, found 4")


def test_without_the_flag_the_record_and_both_ways_out_are_named():
  text = error_of(SkippedRecords(STOP).add, "file", 7, BAD)
  assert text == (
    "file, record 7: expected 3 numbers, found 4. To leave such records out and"
    " continue, add --skip_corrupt; python -m data_tools.verify_data checks all"
    " records."
  )


def test_a_record_counts_once_and_the_list_continues(tmp_path):
  policy = Policy(True).listing_in(str(tmp_path))
  skipped = SkippedRecords(policy)
  skipped.write()
  assert not list(tmp_path.iterdir())
  strange = 'a,"file"\nof odd name'
  for _ in range(2):
    skipped.add(strange, 7, BAD)
  skipped.add("file", 10, BadRecordError("cut off", "too, short"))
  assert skipped.counts == {"wrong size": 1, "cut off": 1}
  skipped.write()

  again = SkippedRecords(policy)
  again.continue_list()
  assert again.counts == skipped.counts
  again.add("file", 9, BAD)
  again.write()
  with open(policy.path, newline="") as file:
    rows = list(csv.reader(file))
  assert rows == [
    ["file", "record", "kind", "problem"],
    [strange, "7", "wrong size", str(BAD)],
    ["file", "9", "wrong size", str(BAD)],
    ["file", "10", "cut off", "too, short"],
  ]


@pytest.mark.parametrize(
  "content",
  [
    b"\xff\xfe\x00",
    b"file,record,kind,problem\n" + b"x" * 200_000,
    "file,record,kind,problem\na,\u00b2,b,c\n".encode(),
  ],
)
def test_a_file_that_is_no_list_is_not_continued(tmp_path, content):
  (tmp_path / "skipped_records.csv").write_bytes(content)
  skipped = SkippedRecords(Policy(True).listing_in(str(tmp_path)))
  skipped.continue_list()
  assert skipped.counts == {}


def test_machines_have_lists_of_their_own():
  assert Policy().listing_in("x").path == "x/skipped_records.csv"
  assert Policy().listing_in("x", 2).path == "x/skipped_records-2.csv"


@pytest.mark.parametrize(
  ("num_records", "num_skipped", "stops"),
  [(999, 999, False), (1000, 10, False), (1000, 11, True), (5000, 50, False)],
)
def test_the_largest_part(num_records, num_skipped, stops):
  skipped = SkippedRecords(Policy(True, 0.01))
  if stops:
    text = error_of(skipped.check, num_records, num_skipped)
    assert_names(text, "1.00%", f"{num_skipped} of {num_records}")
  else:
    skipped.check(num_records, num_skipped)


# --------------------------------------------------------------------------
# Through the programs

FLAGS = (
  "--feature_names=mean_rgb,mean_audio",
  "--feature_sizes=3,2",
  "--num_classes=5",
)


@pytest.fixture
def pattern(tmp_path):
  """20 good videos, 10 of which one is damaged, 10 that are cut off."""
  write_records(
    tmp_path / "a0", [small_video(f"a{number}") for number in range(20)]
  )
  records = [small_video(f"b{number}") for number in range(10)]
  records[4] = small_video("b4", mean_rgb=[float("nan")] * 3)
  write_records(tmp_path / "a1", records)
  whole = (tmp_path / "a0").read_bytes()
  (tmp_path / "a2").write_bytes(whole[: len(whole) // 2 + 11])
  return f"{tmp_path}/a*"


def test_all_programs_leave_out_what_is_damaged(tmp_path, pattern):
  train_dir = f"--train_dir={tmp_path}/model"
  train = (
    "train",
    train_dir,
    f"--train_data_pattern={pattern}",
    *FLAGS,
    "--batch_size=4",
    "--num_epochs=3",
  )
  line = in_process.run_into_error(*train)
  assert_names(line, ", record ", "--skip_corrupt", "verify_data")
  assert "\n" not in line.strip()

  log = in_process.run(*train, "--skip_corrupt", "--max_steps=9")
  log += in_process.run(*train, "--skip_corrupt")
  listed = tmp_path / "model" / "skipped_records.csv"
  assert (
    f"Left out 2 records (1 cut off, 1 not finite), listed in {listed}." in log
  )
  assert "after 117 examples" in log  # 3 epochs of 20 + 9 + 10
  with open(listed, newline="") as file:
    rows = [tuple(row.values())[:3] for row in csv.DictReader(file)]
  cut = rows[1][1]
  assert rows == [
    (f"{tmp_path}/a1", "4", "not finite"),
    (f"{tmp_path}/a2", cut, "cut off"),
  ]
  losses = event_tags(tmp_path / "model")["label_loss"]
  assert all(0 < loss < 100 for loss in losses.values())

  evaluate = ("eval", train_dir, f"--eval_data_pattern={pattern}", "--run_once")
  assert "--skip_corrupt" in in_process.run_into_error(*evaluate)
  log = in_process.run(*evaluate, "--skip_corrupt")
  assert "Left out 2 records" in log
  assert (tmp_path / "model" / "eval" / "skipped_records.csv").exists()

  output = tmp_path / "out" / "predictions.csv"
  output.parent.mkdir()
  output.write_text("of an earlier run")
  predict = (
    "inference",
    train_dir,
    f"--input_data_pattern={pattern}",
    f"--output_file={output}",
  )
  in_process.run_into_error(*predict)
  assert output.read_text() == "of an earlier run"
  assert len(list(output.parent.iterdir())) == 1
  in_process.run(*predict, "--skip_corrupt")
  ids = [line.split(",")[0] for line in output.read_text().splitlines()[1:]]
  assert ids == [
    *(f"a{number}" for number in range(20)),
    *(f"b{number}" for number in range(10) if number != 4),
    *(f"a{number}" for number in range(int(cut))),
  ]
  listed = output.parent / "predictions_skipped_records.csv"
  assert len(listed.read_text().splitlines()) == 3
  # Of other files, which are good, there is no list that looks like theirs.
  in_process.run(*predict, f"--input_data_pattern={tmp_path}/a0")
  assert listed.read_text().splitlines() == ["file,record,kind,problem"]


def test_the_list_is_written_before_each_checkpoint(
  tmp_path, pattern, monkeypatch
):
  """A run that is killed after it does not meet the same records again."""
  save = Run.save
  listed = []

  def note_and_save(run):
    path = tmp_path / "model" / "skipped_records.csv"
    listed.append(len(path.read_text().splitlines()) if path.exists() else 0)
    save(run)

  monkeypatch.setattr(Run, "save", note_and_save)
  in_process.run(
    "train",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={pattern}",
    *FLAGS,
    "--batch_size=13",
    "--num_epochs=4",
    "--export_model_steps=3",
    "--skip_corrupt",
  )
  assert len(listed) == 5  # steps 3, 6, 9 and 12, and the end
  assert listed == [3] * 5  # a header and two records


def test_the_last_step_is_logged_before_a_bad_record(tmp_path, monkeypatch):
  write, begun = report.Reporter._report, []

  def write_slowly(self, step, *arguments):
    begun.append(step)
    time.sleep(1)
    write(self, step, *arguments)

  monkeypatch.setattr(report.Reporter, "_report", write_slowly)
  records = [small_video(f"a{number}") for number in range(100)]
  records[70] = small_video("bad", labels=[5])
  write_records(tmp_path / "a", records)
  _, log = in_process.call(
    "train",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={tmp_path}/a",
    *FLAGS,
    "--batch_size=1",
  )
  *_, step, error = log.splitlines()
  assert f"training step {begun[-1]} " in step
  assert "record 70: " in error


def test_too_many_bad_records_stop_a_training_and_an_evaluation(tmp_path):
  bad = small_video("bad", labels=[5])
  records = [*[small_video("good")] * 90, *[bad] * 10] * 15
  file = write_records(tmp_path / "a", records)
  train = (
    "train",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={file}",
    *FLAGS,
    "--batch_size=50",
    "--skip_corrupt",
  )
  line = in_process.run_into_error(*train, "--max_corrupt_fraction=0.05")
  assert_names(line, "at most 5.00%", "--max_corrupt_fraction")
  assert (tmp_path / "model" / "skipped_records.csv").exists()
  log = in_process.run(
    *train, "--max_corrupt_fraction=0.11", "--num_epochs=1", "--start_new_model"
  )
  assert "after 1350 examples" in log
  # The second batch holds bad ones only.
  records = [*[small_video("good")] * 1000, *[bad] * 100]
  line = in_process.run_into_error(
    "eval",
    f"--train_dir={tmp_path}/model",
    f"--eval_data_pattern={write_records(tmp_path / 'b', records)}",
    "--run_once",
    "--batch_size=1000",
    "--skip_corrupt",
  )
  assert_names(line, "at most 1.00%", "100 of 1100")


def test_videos_without_frames_do_not_stop_a_training(tmp_path):
  empty = small_frames("empty", rgb=b"", audio=b"")
  records = [*[small_frames("good")] * 90, *[empty] * 10] * 15
  train = (
    "train",
    f"--train_dir={tmp_path}/model",
    "--feature_names=rgb,audio",
    "--feature_sizes=3,2",
    "--frame_features=True",
    "--model=FrameLevelLogisticModel",
    "--num_classes=5",
    "--batch_size=50",
    "--num_epochs=1",
    "--start_new_model",
  )
  file = write_records(tmp_path / "a", records)
  log = in_process.run(*train, f"--train_data_pattern={file}")
  assert "Left out 150 records (150 no frames)" in log
  assert "after 1350 examples" in log
  file = write_records(tmp_path / "b", [empty] * 5)
  line = in_process.run_into_error(*train, f"--train_data_pattern={file}")
  assert_names(line, "Expected examples to train on", file, "5 no frames")


def test_records_after_a_damaged_length_are_estimated(tmp_path):
  records = [small_video(f"a{number}") for number in range(20)]
  write_records(tmp_path / "good", records)
  data = bytearray((tmp_path / "good").read_bytes())
  data[12 * len(data) // 20 + 1] ^= 1  # in the length of record 12
  (tmp_path / "damaged").write_bytes(data)
  log = in_process.run(
    "train",
    f"--train_dir={tmp_path}/model",
    f"--train_data_pattern={tmp_path}/good,{tmp_path}/damaged",
    *FLAGS,
    "--num_epochs=1",
    "--skip_corrupt",
  )
  assert "Left out 1 records (1 checksum)" in log
  assert "and about 7 after them that cannot be found." in log


def test_names_of_any_bytes_are_read_back(tmp_path):
  policy = Policy(True).listing_in(str(tmp_path))
  skipped = SkippedRecords(policy)
  names = ["a,b", "a\nb", "a\rb", "a\\xe9", os.fsdecode(b"a\xe9"), "=x", " x "]
  for name in names:
    skipped.add(name, 1, BadRecordError("cut off", f"not {name}\0"))
  skipped.write()
  again = SkippedRecords(policy)
  again.continue_list()
  assert again.rows == skipped.rows
  with open(policy.path, newline="", encoding="utf-8") as file:
    _, *rows = csv.reader(file)
  found = [csv_cells.original_bytes(row[0]) for row in rows]
  assert sorted(found) == sorted(map(os.fsencode, names))
