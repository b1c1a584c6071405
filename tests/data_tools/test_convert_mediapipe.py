"""Tests of data_tools.convert_mediapipe."""

import csv
import re
import shlex

import in_process
import numpy as np
import pytest
import tensorflow as tf
from conftest import REPOSITORY, Program, error_of, folder_content
from make_records import frame_record, write_records

import quantization
from data_tools import convert_mediapipe

PROGRAM = "data_tools.convert_mediapipe"
RGB, AUDIO = "RGB/feature/floats", "AUDIO/feature/floats"


def frames_of(seed, length, size) -> np.ndarray:
  """Floats that bytes stand for."""
  stored = np.random.default_rng(seed).integers(256, size=(length, size))
  return quantization.dequantize(stored.astype(np.float32))


def video(seed=0, length=6, audio_length=None, audio=None) -> bytes:
  """A file of the extractor."""
  features = {RGB: frames_of(seed, length, 1024)}
  if audio is None and audio_length != 0:
    audio = frames_of(seed + 100, audio_length or length, 128)
  if audio is not None:
    features[AUDIO] = audio
  return frame_record(
    "not the id",
    id_name="clip/media_id",
    context={"clip/start/timestamp": np.array([0])},
    **features,
  )


def write(folder, **contents):
  """Files by name, without the ending."""
  folder.mkdir(exist_ok=True)
  for name, content in contents.items():
    (folder / f"{name}.pb").write_bytes(content)
  return folder


def read(path) -> list[tuple]:
  """(id, labels or None, rgb, audio) of each record of a file."""
  found = []
  for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    example = tf.train.SequenceExample.FromString(record)
    context = example.context.feature
    labels = None
    if "labels" in context:
      labels = list(context["labels"].int64_list.value)
    lists = example.feature_lists.feature_list
    assert set(lists) == {"rgb", "audio"}
    matrices = [
      np.array(
        [
          np.frombuffer(feature.bytes_list.value[0], np.uint8)
          for feature in lists[name].feature
        ]
      )
      for name in ("rgb", "audio")
    ]
    found.append((context["id"].bytes_list.value[0], labels, *matrices))
  return found


def skipped(folder) -> dict[str, tuple[str, str]]:
  """{name: (kind, problem)} of the files that were left out."""
  with (folder / "skipped_files.csv").open() as file:
    return {
      row["file"].rpartition("/")[2]: (row["kind"], row["problem"])
      for row in csv.DictReader(file)
    }


def test_records_of_the_official_form(tmp_path):
  clips = write(tmp_path / "clips", b=video(1), a=video(0, length=9))
  (tmp_path / "out").mkdir()  # an empty folder is replaced
  labels = tmp_path / "labels.csv"
  labels.write_text("\ufeffid,labels\na,7;3;7\nb,\nc,1\n")
  log = in_process.run(
    PROGRAM,
    f"--input_pattern={clips}/*.pb",
    f"--labels={labels}",
    f"--output_dir={tmp_path}/out",
    "--num_shards=9",
  )
  assert f"2 videos of 15 frames: {tmp_path}/out/mediapipe*.tfrecord" in log
  assert f"1 of 3 ids in {labels} have no file, such as c." in log
  assert "silence" not in log
  assert "Silent" not in log
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
    "mediapipe0000.tfrecord",
    "mediapipe0001.tfrecord",
    "skipped_files.csv",
  ]
  for number, (name, length, classes) in enumerate(
    [("a", 9, [3, 7]), ("b", 6, [])]
  ):
    ((video_id, found, rgb, audio),) = read(
      tmp_path / "out" / f"mediapipe000{number}.tfrecord"
    )
    assert (video_id, found) == (name.encode(), classes)
    for stored, floats in [
      (rgb, frames_of(number, length, 1024)),
      (audio, frames_of(number + 100, length, 128)),
    ]:
      np.testing.assert_array_equal(
        quantization.dequantize(stored.astype(np.float32)), floats
      )


@pytest.mark.parametrize(
  ("value", "stored", "is_silent"),
  [
    (0.0, 127, True),
    (-0.0, 127, True),
    (float(quantization.dequantize(0)), 127, True),
    (-1.99, 127, True),
    (-2.0, 127, True),
    (0.5, 159, False),
    (0.001, 128, False),
  ],
)
def test_frames_of_one_value(value, stored, is_silent):
  frames, silent = convert_mediapipe.quantized_audio(np.full((1, 128), value))
  assert set(frames.ravel()) == {stored}
  assert silent.tolist() == [is_silent]


def test_the_byte_of_silence_is_the_nearest_to_0():
  distances = np.abs(quantization.dequantize(np.arange(256.0)))
  assert np.argmin(distances) == convert_mediapipe.SILENCE


def test_silence(tmp_path):
  audio = frames_of(3, 6, 128)
  audio[[1, 4]] = 0
  audio[5, :127] = 0  # a sound
  clips = write(
    tmp_path / "clips", mute=video(audio_length=0), some=video(audio=audio)
  )
  log = in_process.run(
    PROGRAM, f"--input_pattern={clips}/*", f"--output_dir={tmp_path}/out"
  )
  assert "Videos without sound, stored as silence: 1\n" in log
  assert "Silent frames in the other videos: 2\n" in log
  mute, some = read(tmp_path / "out" / "mediapipe0000.tfrecord")
  assert mute[1] is None  # no labels
  assert mute[3].shape == (6, 128)
  assert set(mute[3].ravel()) == {127}
  assert [set(frame) == {127} for frame in some[3]] == [
    False,
    True,
    False,
    False,
    True,
    False,
  ]


@pytest.mark.parametrize(
  ("length", "audio_length", "expected"),
  [(100, 104, 100), (5, 3, 3), (100, 91, 91), (1, 3, 1)],
)
def test_lengths_that_differ_a_little(length, audio_length, expected):
  frames, silent = convert_mediapipe.read_frames(
    video(length=length, audio_length=audio_length)
  )
  assert frames.shape == (expected, 1152)
  assert silent is not None
  assert len(silent) == expected


def test_bad_files_are_listed(tmp_path):
  clips = write(
    tmp_path / "clips",
    good=video(),
    text=b"no protobuf at all",
    empty=b"",
    bare_rgb=frame_record("a", rgb=frames_of(0, 2, 1024)),
    small=frame_record("a", **{RGB: frames_of(0, 2, 1023)}),
    stored=frame_record("a", **{RGB: np.zeros((2, 1024), np.uint8)}),
    nan=video(audio=np.full((6, 128), np.nan)),
    short=video(length=40, audio_length=30),
    unlabeled=video(),
  )
  write(clips / "more", good=video(1))
  write_records(clips / "shard.pb", [video()])
  names = [path.stem for path in clips.glob("*.pb")]
  (tmp_path / "labels.csv").write_text(
    "id,labels\n"
    + "".join(f"{name},1\n" for name in names if name != "unlabeled")
  )
  log = in_process.run(
    PROGRAM,
    f"--input_pattern={clips}/*.pb,{clips}/more/*",
    f"--labels={tmp_path}/labels.csv",
    f"--output_dir={tmp_path}/out",
    "--num_shards=3",
  )
  assert "Left out: 10 of 11 files (" in log
  assert "2 no frames" in log
  found = skipped(tmp_path / "out")
  kinds = {name: kind for name, (kind, _) in found.items()}
  assert kinds == {
    "text.pb": "not an Example",
    "empty.pb": "no frames",
    "bare_rgb.pb": "no frames",
    "small.pb": "wrong size",
    "stored.pb": "wrong size",
    "nan.pb": "not finite",
    "short.pb": "different lengths",
    "unlabeled.pb": "no labels",
    "shard.pb": "not an Example",
    "good.pb": "duplicate id",
  }
  assert "found 1023 float in frame 0" in found["small.pb"][1]
  ((video_id, *_),) = read(tmp_path / "out" / "mediapipe0000.tfrecord")
  assert video_id == b"good"
  assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_file_that_is_gone_is_one_that_cannot_be_read(tmp_path):
  with pytest.raises(
    convert_mediapipe.BadFileError, match="a file that can be read"
  ):
    convert_mediapipe._convert_file(f"{tmp_path}/no.pb", None, set(), None)


def test_without_a_good_file_nothing_is_written(tmp_path):
  clips = write(tmp_path / "clips", a=b"", b=b"")
  error = in_process.run_into_error(
    PROGRAM, f"--input_pattern={clips}/*", f"--output_dir={tmp_path}/out"
  )
  assert "received 2 that cannot be used (2 no frames)" in error
  assert f"The first is {clips}/a.pb: expected frames" in error
  assert [path.name for path in tmp_path.iterdir()] == ["clips"]


def test_a_folder_with_files_stays(tmp_path):
  clips = write(tmp_path / "clips", a=video())
  error = in_process.run_into_error(
    PROGRAM, f"--input_pattern={clips}/*", f"--output_dir={clips}"
  )
  assert f"received {clips}, which exists already" in error
  assert [path.name for path in clips.iterdir()] == ["a.pb"]


def test_a_trained_model_is_not_replaced(tmp_path):
  clips = write(tmp_path / "clips", a=video(), saved_model=b"mine")
  before = folder_content(clips)
  error = in_process.run_into_error(
    PROGRAM, f"--input_pattern={clips}/a.pb", f"--output_dir={clips}"
  )
  assert f"received {clips}, which exists already" in error
  assert folder_content(clips) == before


@pytest.mark.parametrize("ending", ["", "/."])
def test_an_empty_folder_by_another_name(tmp_path, ending):
  clips = write(tmp_path / "clips", a=video())
  (tmp_path / "out").mkdir()
  (tmp_path / "link").symlink_to("out")
  in_process.run(
    PROGRAM,
    f"--input_pattern={clips}/a.pb",
    f"--output_dir={tmp_path}/link{ending}",
  )
  assert (tmp_path / "link").is_symlink()
  assert len(read(tmp_path / "out" / "mediapipe0000.tfrecord")) == 1


def test_both_flags_are_needed(tmp_path):
  clips = write(tmp_path / "clips", a=video())
  error = in_process.run_into_error(PROGRAM, f"--output_dir={tmp_path}/out")
  assert "Expected --input_pattern, received none" in error
  error = in_process.run_into_error(PROGRAM, f"--input_pattern={clips}/*")
  assert "Expected --output_dir, received none" in error


@pytest.mark.parametrize(
  ("content", "parts"),
  [
    (b"", ["id and labels", "found nothing"]),
    (b"video,labels\na,1\n", ["id and labels", "found video, labels"]),
    (b"id,labels\na,1\nb,car\n", ["line 3", "'car'"]),
    (b"id,labels\na,-1\n", ["line 2", "'-1'"]),
    (b"id,labels\na,%d\n" % 2**63, ["line 2", f"'{2**63}'"]),
    (b"id,labels\na,1\na,2\n", ["line 3", "'a' again"]),
    (b"id,labels\n\xff,2\n", ["UTF-8"]),
  ],
)
def test_bad_labels(tmp_path, content, parts):
  path = tmp_path / "labels.csv"
  path.write_bytes(content)
  text = error_of(convert_mediapipe.read_labels, str(path))
  for part in [*parts, f"--labels={path}"]:
    assert part in text


@pytest.mark.slow
def test_a_killed_run_leaves_no_folder_and_can_be_repeated(tmp_path):
  clips = write(
    tmp_path / "clips", **{f"v{n:04d}": video(n, 60) for n in range(400)}
  )
  arguments = [
    f"--input_pattern={clips}/*",
    f"--output_dir={tmp_path}/out/data",
  ]
  with Program(tmp_path / "log", "-m", PROGRAM, *arguments) as program:
    program.wait_for(
      lambda: any((tmp_path / "out").glob(".data.tmp*/*.tfrecord"))
    )
  assert not (tmp_path / "out" / "data").exists()
  in_process.run(PROGRAM, *arguments)
  found = read(tmp_path / "out" / "data" / "mediapipe0000.tfrecord")
  assert len(found) == 400


def test_the_commands_of_the_page(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / "features", **{f"v{n}": video(n) for n in range(4)})
  rows = "".join(f"v{number},{number}\n" for number in range(4))
  (tmp_path / "labels.csv").write_text(f"id,labels\n{rows}")
  page = (REPOSITORY / "docs" / "formats.md").read_text()
  (section,) = re.findall(r"^## MediaPipe\n(.*?)^## ", page, re.M | re.S)
  (block,) = re.findall(r"^```text\n(.*?)^```", section, re.M | re.S)
  convert, train = block.replace("\\\n", " ").splitlines()
  in_process.run(PROGRAM, *shlex.split(convert)[3:])
  in_process.run("train", *shlex.split(train)[2:], "--max_steps=1")
  assert list((tmp_path / "mediapipe_model").glob("model.ckpt-1.*"))
