"""Tests of media.opening: names, addresses in files, cover pictures."""

import shutil
import sys

import av
import numpy as np
import pytest
from conftest import error_of
from painted_videos import add_sound, paint, write_video

from media.opening import (
  BadVideoError,
  import_av,
  open_media,
  reason_of,
  video_stream,
)


def reason(path) -> str:
  """Why a file cannot be opened."""
  with pytest.raises(BadVideoError) as caught:
    open_media(str(path))
  return str(caught.value)


@pytest.mark.parametrize("name", ["http:a.mkv", "-i.mkv", "a%03d b'?.mkv"])
def test_every_name_is_that_of_a_file(name, tmp_path, monkeypatch):
  shutil.copy(write_video(tmp_path / "a.mkv", range(3)), tmp_path / name)
  monkeypatch.chdir(tmp_path)
  with open_media(name) as container:
    assert len(list(container.decode(video=0))) == 3


def test_addresses_in_a_file_are_not_followed(tmp_path):
  for name in ("a.m3u8", "a.mp4"):
    (tmp_path / name).write_text(
      "#EXTM3U\n#EXTINF:5,\nhttp://localhost:1/a.ts\n#EXT-X-ENDLIST\n"
    )
    assert reason(tmp_path / name).startswith("cannot be opened")


def test_what_is_no_file(tmp_path):
  assert reason(tmp_path) == "is a folder or device, not a file"
  assert reason("/dev/null") == "is a folder or device, not a file"
  assert reason(tmp_path / "a.mp4") == (
    "cannot be opened: No such file or directory"
  )


def test_titles_of_any_encoding(tmp_path):
  path = tmp_path / "a.mkv"
  with av.open(str(path), "w") as file:
    file.metadata["title"] = "a title of Munich"
    stream = file.add_stream("ffv1", rate=25)
    stream.width = stream.height = 64
    file.mux(stream.encode(av.VideoFrame.from_ndarray(paint(1), "rgb24")))
    file.mux(stream.encode(None))
  content = path.read_bytes()
  path.write_bytes(content.replace(b"of Munich", b"of M\xfcnche"))
  with open_media(str(path)) as container:
    assert "of M" in container.metadata["title"]


def test_a_cover_picture_is_no_video(tmp_path):
  path = str(tmp_path / "a.m4a")
  with av.open(path, "w", format="mp4") as file:
    picture = file.add_stream("mjpeg", rate=1)
    picture.width = picture.height = 64
    picture.pix_fmt = "yuvj420p"
    picture.disposition = av.stream.Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(paint(1), "rgb24")
    packets = picture.encode(frame) + picture.encode(None)
    sound = ("aac", "mono", 8000, np.zeros((1, 8000)), 0)
    stream = add_sound(file, sound)
    file.mux(packets)
    file.mux(stream.encode(None))
  with open_media(path) as container:
    assert len(container.streams.video) == 1
    with pytest.raises(BadVideoError, match="no video stream, only audio"):
      video_stream(container)


def test_reasons_are_one_line():
  assert reason_of(ValueError("a\n  b")) == "a b"
  assert reason_of(ValueError()) == "ValueError"
  assert reason_of(FileNotFoundError(2, "No such file", "a")) == "No such file"


def test_nothing_of_ffmpeg_is_printed(tmp_path, capfd):
  path = write_video(tmp_path / "a.mp4", range(50))
  content = bytearray((tmp_path / "a.mp4").read_bytes())
  content[100:1500:7] = bytes(200)
  (tmp_path / "a.mp4").write_bytes(content)
  try:
    with open_media(path) as container:
      list(container.decode(video=0))
  except (BadVideoError, av.FFmpegError):
    pass
  assert capfd.readouterr() == ("", "")


def test_a_missing_package_has_its_install_command(monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  assert "pip install -r requirements/videos.txt" in error_of(import_av)
