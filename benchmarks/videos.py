"""Times the decoding of videos: videos per second, and what starts save.

Usage, from the root of the repository:

  python -m benchmarks.videos --repeats=5

Makes H.264 videos of moving noise, with a key frame every second, as telephones
write them, and every ten seconds, as web sites do. Prints readable lines and,
at the end, one line of JSON with all figures.

* decode: all frames of a video in one process, none converted: the bound of a
  core.
* read_video: frames at 1 a second and ten evenly spaced ones, with starts at
  key frames and by decoding everything, alternating within each repeat.
* decode_all: videos a second of the workers, and the part of the bound that it
  is.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from fractions import Fraction

import numpy as np
from absl import app, flags

from media import decoding, frames, opening
from media.frames import Sampling

FLAGS = flags.FLAGS

if __name__ == "__main__":
  flags.DEFINE_integer("repeats", 5, "Repeats of each measurement.")
  flags.DEFINE_integer("seconds", 30, "Length of a video.")
  flags.DEFINE_integer("height", 720, "Of a video; its width is 16/9 of it.")
  flags.DEFINE_integer("num_videos", 12, "Videos that decode_all reads.")
  flags.DEFINE_integer("num_workers", None, "Processes; default: all cores.")

FRAMES_PER_SECOND = 30
SIZE = (299, 299)
GROUPS = {"key frame every 1 s": 1, "key frame every 10 s": 10}
SAMPLINGS = {"1 a second": Sampling(), "10 frames": Sampling(num_frames=10)}


def make_video(path, seconds_a_group):
  """Writes a video of patterns that move, at about 5 Mbit/s for 720 lines."""
  av = opening.import_av()
  height = FLAGS.height
  width = height * 16 // 9 // 2 * 2
  random = np.random.default_rng(0)
  coarse = random.integers(0, 256, (height // 8 + 99, width // 8 + 99, 3))
  scene = coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1)
  with av.open(path, "w") as output:
    stream = output.add_stream("libx264", rate=FRAMES_PER_SECOND)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = {"preset": "veryfast", "sc_threshold": "0"}
    stream.codec_context.gop_size = seconds_a_group * FRAMES_PER_SECOND
    for index in range(FLAGS.seconds * FRAMES_PER_SECOND):
      top = int(390 * (1 + np.sin(index / 31)))
      left = int(390 * (1 + np.cos(index / 47)))
      image = scene[top : top + height, left : left + width]
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
      frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
      output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def seconds_of(function, *arguments):
  """Returns the seconds that a call takes."""
  start = time.perf_counter()
  function(*arguments)
  return time.perf_counter() - start


def decode_only(path):
  """Decodes all frames in one thread and converts none."""
  with opening.open_media(path) as container:
    stream = opening.video_stream(container)
    stream.codec_context.thread_count = 1
    for _ in container.decode(stream):
      pass


def time_one_process(path):
  """Returns {measurement: median of its seconds} for a video."""
  seconds = {}

  def measure(name, function, *arguments):
    seconds.setdefault(name, []).append(seconds_of(function, *arguments))

  for _ in range(FLAGS.repeats):
    measure("decode", decode_only, path)
    for name, sampling in SAMPLINGS.items():
      arguments = path, sampling, SIZE
      measure(f"{name}, with starts", frames.read_video, *arguments)
      measure(f"{name}, all", frames.read_every_frame_of, *arguments)
  return {name: statistics.median(values) for name, values in seconds.items()}


def videos_a_second(path, sampling, num_workers):
  """Returns the videos a second of decode_all, its start included."""

  def decode():
    paths = [path] * FLAGS.num_videos
    for _, *rest in decoding.decode_all(
      paths, sampling, SIZE, num_workers=num_workers
    ):
      assert len(rest) == 2, rest

  return FLAGS.num_videos / statistics.median(
    seconds_of(decode) for _ in range(FLAGS.repeats)
  )


def time_video(path, kind, num_workers):
  """Returns the figures of one kind of video, and prints them."""
  seconds = time_one_process(path)
  print(
    f"{kind}: {os.path.getsize(path) / 1e6 / FLAGS.seconds * 8:.1f} Mbit/s,"
    f" decodes at {FLAGS.seconds / seconds['decode']:.0f} times real time in"
    " one thread"
  )
  rates = {}
  for name, sampling in SAMPLINGS.items():
    with_starts = seconds[f"{name}, with starts"]
    ratio = seconds[f"{name}, all"] / with_starts
    rates[name] = videos_a_second(path, sampling, num_workers)
    bound = num_workers / with_starts
    print(
      f"  {name}: {1 / with_starts:.2f} videos/s in one process, {ratio:.2f}"
      f" times those of decoding everything; {rates[name]:.2f} videos/s by"
      f" {num_workers} workers, {rates[name] / bound:.0%} of as many processes"
    )
  return {"seconds": seconds, "decode_all_videos_per_second": rates}


def main(_):
  """Times everything and prints the figures."""
  num_workers = FLAGS.num_workers or decoding.num_cores()
  figures = {}
  with tempfile.TemporaryDirectory() as folder:
    for kind, seconds_a_group in GROUPS.items():
      path = os.path.join(folder, f"{seconds_a_group}.mp4")
      make_video(path, seconds_a_group)
      figures[kind] = time_video(path, kind, num_workers)
  figures |= {
    "seconds_of_a_video": FLAGS.seconds,
    "height": FLAGS.height,
    "num_videos": FLAGS.num_videos,
    "num_workers": num_workers,
    "repeats": FLAGS.repeats,
    "av": opening.import_av().__version__,
    "python": platform.python_version(),
    "machine": platform.processor() or platform.machine(),
  }
  print(json.dumps(figures))


if __name__ == "__main__":
  app.run(main)
