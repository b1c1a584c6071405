"""Tests of data_tools.convert_prediction_from_json_to_csv."""

import json

import in_process
import pytest
from conftest import REPOSITORY

from data_tools.convert_prediction_from_json_to_csv import csv_line

PROGRAM = "data_tools.convert_prediction_from_json_to_csv"


def line(video_id="v1", classes=(3, 1), predictions=(0.5, 0.25), **more) -> str:
  return json.dumps(
    {
      "video_id": video_id,
      "class_indexes": list(classes),
      "predictions": list(predictions),
      **more,
    }
  )


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    (line(), "v1,3 0.5 1 0.25\n"),
    (line(["v1"]), "v1,3 0.5 1 0.25\n"),
    ("\ufeff" + line(), "v1,3 0.5 1 0.25\n"),
    (line(more=1), "v1,3 0.5 1 0.25\n"),
    # The highest comes first, of equal ones the lower class.
    (line("é", [5, 9, 2], [0.5, 0.75, 0.5]), "é,9 0.75 2 0.5 5 0.5\n"),
    (line("v", [1], [0.123456789]), "v,1 0.123457\n"),
    (line("v", [1, 2], [1, 0]), "v,1 1 2 0\n"),
    (line("v", [], []), "v,\n"),
  ],
)
def test_a_line_by_hand(text, expected):
  assert csv_line(text) == expected


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("{", "no JSON"),
    pytest.param("[" * 100_000, "no JSON", id="deep"),
    ("[1]", "list instead of an object"),
    ('{"error": "out of memory"}', "['error'] instead of an object with"),
    (line(7), "the video_id 7, which is no text"),
    (line(["a", "b"]), "the video_id ['a', 'b'], which is no text"),
    (line(classes=[1, 2.5]), "class_indexes that are no list of classes"),
    (line(classes=[1, -1]), "class_indexes that are no list of classes"),
    (line(classes=[1, True]), "class_indexes that are no list of classes"),
    (line(predictions=[1, "2"]), "no list of finite numbers"),
    (line(predictions=[1, float("nan")]), "no list of finite numbers"),
    (line(predictions=[1, 10**400]), "no list of finite numbers"),
    (line(classes=[1]), "1 class_indexes with 2 predictions"),
  ],
)
def test_what_is_no_prediction(text, part):
  with pytest.raises(ValueError, match=r".") as caught:
    csv_line(text)
  assert part in str(caught.value)


def test_files_are_joined_in_their_order(tmp_path):
  (tmp_path / "results-00001-of-2").write_text(line("c"))
  (tmp_path / "results-00000-of-2").write_text(f"{line('a')}\n\n{line('b')}\n")
  output = tmp_path / "out" / "predictions.csv"
  log = in_process.run(
    PROGRAM,
    f"--json_prediction_files_pattern={tmp_path}/results*",
    f"--csv_output_file={output}",
  )
  assert f"3 predictions of 2 files: {output}" in log
  assert output.read_text() == (
    "VideoId,LabelConfidencePairs\n"
    "a,3 0.5 1 0.25\nb,3 0.5 1 0.25\nc,3 0.5 1 0.25\n"
  )
  assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize(
  ("content", "where"),
  [
    (f"{line()}\n\nno".encode(), "line 3, received no JSON"),
    (b"\xff\xfe", "line 1, received 'utf-8'"),
  ],
)
def test_a_bad_line_leaves_the_old_file(tmp_path, content, where):
  (tmp_path / "a.json").write_bytes(content)
  output = tmp_path / "out" / "predictions.csv"
  output.parent.mkdir()
  output.write_text("of an earlier run")
  error = in_process.run_into_error(
    PROGRAM,
    f"--json_prediction_files_pattern={tmp_path}/a.json",
    f"--csv_output_file={output}",
  )
  assert f"{tmp_path}/a.json, {where}" in error
  assert output.read_text() == "of an earlier run"
  assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_the_file_that_is_read_is_not_replaced(tmp_path):
  (tmp_path / "a.json").write_text(line())
  error = in_process.run_into_error(
    PROGRAM,
    f"--json_prediction_files_pattern={tmp_path}/*.json",
    f"--csv_output_file={tmp_path}/a.json",
  )
  assert "Expected a file of its own as --csv_output_file" in error
  assert (tmp_path / "a.json").read_text() == line()


def test_a_file_of_a_run_is_not_replaced(tmp_path):
  (tmp_path / "a.json").write_text(line())
  (tmp_path / "model_flags.json").write_text("{}")
  error = in_process.run_into_error(
    PROGRAM,
    f"--json_prediction_files_pattern={tmp_path}/a.json",
    f"--csv_output_file={tmp_path}/model_flags.json",
  )
  assert "which belongs to a training run" in error
  assert (tmp_path / "model_flags.json").read_text() == "{}"


def test_both_flags_are_needed(tmp_path):
  error = in_process.run_into_error(PROGRAM, f"--csv_output_file={tmp_path}/a")
  assert "Expected --json_prediction_files_pattern, received none" in error
  (tmp_path / "a.json").write_text(line())
  error = in_process.run_into_error(
    PROGRAM, f"--json_prediction_files_pattern={tmp_path}/a.json"
  )
  assert "Expected --csv_output_file, received none" in error


def test_the_command_of_the_page(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  page = (REPOSITORY / "docs" / "formats.md").read_text()
  _, _, command = page.partition(f"python -m {PROGRAM} ")
  words = command.partition("```")[0].replace("\\\n", " ").split()
  (tmp_path / "output").mkdir()
  (tmp_path / "output" / "prediction.results-00000-of-00001").write_text(line())
  in_process.run(PROGRAM, *(word.replace('"', "") for word in words))
  assert (
    (tmp_path / "predictions.csv").read_text().endswith("v1,3 0.5 1 0.25\n")
  )


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ('a,"b"', '"a,""b"""'),
    ("a\nb\r", '"a\nb\r"'),
    ("a\0", "a\\x00"),
    ("\ud800", "\\xed\\xa0\\x80"),
    ("=cmd()", "=cmd()"),
  ],
)
def test_ids_are_quoted_where_they_have_to_be(name, expected):
  assert csv_line(line(name)) == f"{expected},3 0.5 1 0.25\n"
