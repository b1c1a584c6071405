"""Tests of extraction: the features of video files, in their order."""

import json

import numpy as np
import pytest
import small_clips

import errors
from media import audio, decoding, encoders
from media.extraction import Extracted, Extraction, Extractor, stamp_of
from media.frames import BadVideoError, DecodedVideo, Sampling, read_video


def test_settings_come_back_from_json():
  extraction = Extraction("random", num_frames=7, audio="vggish")
  kept = json.loads(json.dumps({**extraction.to_dict(), "store": "float16"}))
  assert Extraction.from_dict(kept) == extraction
  del kept["num_frames"]
  with pytest.raises(errors.UserError, match="none for num_frames"):
    Extraction.from_dict(kept)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("encoder", None),
    ("frames_per_second", "1"),
    ("frames_per_second", True),
    ("num_frames", 1.0),
    ("audio", []),
  ],
)
def test_settings_of_other_types_are_named(name, value):
  kept = {**Extraction("random").to_dict(), name: value}
  with pytest.raises(errors.UserError, match=f"as {name} in a.json, received"):
    Extraction.from_dict(kept, "a.json")
  kept = {**Extraction("random").to_dict(), "frames_per_second": 2}
  assert Extraction.from_dict(kept).frames_per_second == 2


def test_features_are_the_encoders_of_the_frames(tmp_path):
  paths = [
    str(small_clips.make_clip(tmp_path / f"{number}.mp4", (80 * number, 9, 9)))
    for number in range(3)
  ]
  (tmp_path / "text.mp4").write_text("text")
  order = [paths[2], str(tmp_path / "text.mp4"), paths[0], paths[1]]
  extractor = Extractor(
    Extraction("random", frames_per_second=2.0, max_frames=5), num_workers=2
  )

  found = list(extractor.extract(order))

  assert [path for path, _ in found] == order
  assert isinstance(found[1][1], BadVideoError)
  encoder = encoders.make_encoder("random")
  for path, result in [found[0], *found[2:]]:
    assert isinstance(result, Extracted)
    video = read_video(path, Sampling(2.0, 0, 5), encoder.image_size, "stretch")
    assert list(result.arrays) == ["rgb"]
    np.testing.assert_array_equal(
      result.arrays["rgb"], encoder.encode(video.images)
    )
    np.testing.assert_array_equal(result.times, [0, 0.5, 1, 1.5, 2])
    assert result.duration == pytest.approx(4)
    assert not result.has_sound
  assert extractor.waiting_seconds > 0
  assert extractor.encoding_seconds > 0


def test_a_video_that_the_encoder_cannot_take_is_an_error_of_it(
  tmp_path, monkeypatch
):
  path = str(small_clips.make_clip(tmp_path / "a.mp4", (9, 9, 9), 1))
  monkeypatch.setattr(
    encoders.RandomEncoder,
    "encode_batch",
    lambda self, images: np.full((len(images), 128), np.nan),
  )
  extractor = Extractor(Extraction("random"), num_workers=1)
  ((_, result),) = extractor.extract([path])
  assert isinstance(result, BadVideoError)
  assert "not finite" in str(result)


def test_sound_goes_with_the_frames(tmp_path, monkeypatch):
  class FakeVggish:
    """Its numbers are the moments, or -1 without sound."""

    def __init__(self, weights, pca_params):
      assert (weights, pca_params) == ("a.ckpt", "b.npz")

    def encode(self, samples, times):
      assert len(samples) == 3 * 16000
      return np.array(times, np.float32)[:, np.newaxis]

    def no_sound(self, count):
      return np.full((count, 1), -1, np.float32)

  def decode_all(paths, sampling, size, fit, with_audio, num_workers):
    assert with_audio
    for path in paths:
      images = np.zeros((2, *size, 3), np.uint8)
      times = np.array([0.0, 2.0])
      samples = None if "silent" in path else np.zeros(3 * 16000, np.float32)
      yield path, DecodedVideo(images, times, times, 3.0, "a note"), samples

  monkeypatch.setattr(audio, "Vggish", FakeVggish)
  monkeypatch.setattr(decoding, "decode_all", decode_all)
  extractor = Extractor(
    Extraction(
      "random", audio="vggish", audio_weights="a.ckpt", audio_pca="b.npz"
    )
  )
  (_, loud), (_, silent) = extractor.extract(["loud", "silent"])
  assert extractor.takes_sound
  assert list(loud.arrays) == ["rgb", "audio"]
  np.testing.assert_array_equal(loud.arrays["audio"], [[0], [2]])
  np.testing.assert_array_equal(silent.arrays["audio"], [[-1], [-1]])
  assert (loud.has_sound, silent.has_sound) == (True, False)
  assert loud.note == "a note"


def test_the_size_of_batches(tmp_path, monkeypatch):
  path = str(small_clips.make_clip(tmp_path / "a.mp4", (9, 9, 9)))
  sizes = []
  encode = encoders.RandomEncoder.encode_batch

  def noting(self, images):
    sizes.append(len(images))
    return encode(self, images)

  monkeypatch.setattr(encoders.RandomEncoder, "encode_batch", noting)
  extractor = Extractor(Extraction("random"), batch_size=3, num_workers=1)
  list(extractor.extract([path]))
  assert sizes == [3, 1]


def test_the_stamp_of_a_file_changes_with_it(tmp_path):
  path = tmp_path / "a"
  assert stamp_of(str(path)) == ""
  path.write_text("1")
  first = stamp_of(str(path))
  path.write_text("12")
  assert stamp_of(str(path)) != first
