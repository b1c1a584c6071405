"""Makes small video files to try the tools for videos on.

  python -m data_tools.sample_clips --output_dir=clips

writes to output_dir

  circle_0.mp4 ...  twelve clips of 3 to 8 s: a moving shape and a tone
  labels.csv        path,labels: the class of each
  new/              four clips to predict, without labels; in medley.mkv the
                    classes follow each other, for a timeline

A class is a shape with its color and pitch; everything else differs from clip
to clip: size, way, background, frame rate, format. The same files come out each
time.
"""

import csv
import dataclasses
import io
import os
from fractions import Fraction

import command_line  # isort: skip
import numpy as np
from absl import flags

import errors
from engine import local_files
from media.opening import import_av

CLIPS_OF_A_CLASS = 4
HEIGHT, WIDTH = 120, 160
SAMPLE_RATE = 48000

_SEED = 8
_NEW_FOLDER = "new"
_LABELS = "labels.csv"


@dataclasses.dataclass(frozen=True)
class Look:
  """How the clips of a class look and sound.

  Attributes:
    name: of the class.
    color: RGB.
    pitch: of the tone, in Hz.
  """

  name: str
  color: tuple[int, int, int]
  pitch: float


CLASSES = (
  Look("circle", (220, 60, 50), 330.0),
  Look("square", (60, 180, 75), 523.0),
  Look("stripes", (70, 110, 230), 784.0),
)

# Format for FFmpeg, pixel and sound codecs, and options of the former. One
# thread, since some encoders' output depends on the number.
_FORMATS = {
  "mp4": ("mp4", "libx264", "aac", {"preset": "veryfast", "threads": "1"}),
  "mov": ("mov", "mpeg4", "pcm_s16le", {"threads": "1"}),
  "mkv": ("matroska", "libx264", "aac", {"preset": "fast", "threads": "1"}),
  "webm": (
    "webm",
    "libvpx",
    "libopus",
    {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
  ),
}


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip to be made.

  Attributes:
    name: of the file.
    looks: the classes, which follow each other.
    seconds: of each of them.
    frames_per_second: the frame rate.
    seed: decides the rest.
  """

  name: str
  looks: tuple[Look, ...]
  seconds: int
  frames_per_second: int
  seed: int


def labeled_clips() -> list[Clip]:
  """The clips with labels."""
  endings = list(_FORMATS)
  return [
    Clip(
      name=f"{look.name}_{index}.{endings[(number + index) % len(endings)]}",
      looks=(look,),
      seconds=3 + (2 * index + number) % 6,
      frames_per_second=(12, 15, 25)[(number + index) % 3],
      seed=100 * number + index,
    )
    for number, look in enumerate(CLASSES)
    for index in range(CLIPS_OF_A_CLASS)
  ]


def new_clips() -> list[Clip]:
  """The clips without labels: one of each class, and one of all classes."""
  clips = [
    Clip(f"{_NEW_FOLDER}/unseen_{number}.mp4", (look,), 5, 15, 900 + number)
    for number, look in enumerate(CLASSES)
  ]
  return [*clips, Clip(f"{_NEW_FOLDER}/medley.mkv", CLASSES, 5, 15, 999)]


class _Scene:
  """A shape on its way over a background.

  Args:
    look: of its class.
    random: decides the rest.
  """

  def __init__(self, look: Look, random: np.random.Generator):
    self._look = look
    self._radius = random.uniform(22, 34)
    self._phases = random.uniform(0, 2 * np.pi, size=2)
    self._speeds = random.uniform(0.6, 1.4, size=2)
    shade = random.uniform(10, 70)
    slope = random.uniform(0, 60, size=3)
    rows = np.linspace(0, 1, HEIGHT)[:, None, None]
    self._background = np.broadcast_to(shade + rows * slope, (HEIGHT, WIDTH, 3))

  def draw(self, time: float) -> np.ndarray:
    """The image at a time in seconds: (HEIGHT, WIDTH, 3) uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    way = np.sin(self._phases + self._speeds * time)
    dy = y - HEIGHT / 2 - way[0] * (HEIGHT / 2 - self._radius)
    dx = x - WIDTH / 2 - way[1] * (WIDTH / 2 - self._radius)
    if self._look.name == "circle":
      inside = np.hypot(dx, dy) < self._radius
    elif self._look.name == "square":
      inside = np.maximum(abs(dx), abs(dy)) < self._radius
    else:
      inside = (np.floor(dx / self._radius * 2) % 2 == 0) & (
        abs(dy) < self._radius * 1.5
      )
    image = np.where(inside[..., None], self._look.color, self._background)
    return image.astype(np.uint8)


def _sound(clip: Clip, random: np.random.Generator) -> np.ndarray:
  """The tones of a clip: (samples,) float32 at SAMPLE_RATE."""
  time = np.arange(clip.seconds * SAMPLE_RATE) / SAMPLE_RATE
  beat = 0.6 + 0.4 * np.sin(2 * np.pi * random.uniform(1, 3) * time)
  detune = random.uniform(0.97, 1.03)
  parts = [
    0.3 * beat * np.sin(2 * np.pi * look.pitch * detune * time)
    for look in clip.looks
  ]
  return np.concatenate(parts).astype(np.float32)


def encode(clip: Clip) -> bytes:
  """The content of a clip's file."""
  av = import_av()
  random = np.random.default_rng([_SEED, clip.seed])
  container, pixel_codec, sound_codec, options = _FORMATS[
    clip.name.rpartition(".")[2]
  ]
  file = io.BytesIO()
  # Without its own version, random numbers and the time in the file.
  exact = {"fflags": "+bitexact"}
  with av.open(file, "w", format=container, container_options=exact) as output:
    rate = clip.frames_per_second
    pixels = output.add_stream(pixel_codec, rate=rate, options=options)
    pixels.width, pixels.height, pixels.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    pixels.codec_context.gop_size = 2 * rate
    sound = output.add_stream(sound_codec, rate=SAMPLE_RATE, layout="mono")
    for part, look in enumerate(clip.looks):
      scene = _Scene(look, random)
      for index in range(clip.seconds * rate):
        frame = av.VideoFrame.from_ndarray(scene.draw(index / rate), "rgb24")
        frame.pts = part * clip.seconds * rate + index
        frame.time_base = Fraction(1, rate)
        output.mux(pixels.encode(frame.reformat(format="yuv420p", threads=1)))
    output.mux(pixels.encode(None))
    samples = _sound(clip, random)
    frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE, 0
    frame.time_base = Fraction(1, SAMPLE_RATE)
    resampler = av.AudioResampler(
      sound.format, "mono", SAMPLE_RATE, sound.codec_context.frame_size or 1024
    )
    for ready in [*resampler.resample(frame), *resampler.resample(None)]:
      output.mux(sound.encode(ready))
    output.mux(sound.encode(None))
  return file.getvalue()


def make_clips(output_dir: str) -> None:
  """Writes all clips and labels.csv, which is the last file.

  Args:
    output_dir: a folder; clips of the same names are replaced.

  Raises:
    errors.UserError: it has a labels.csv of other files.
  """
  table = io.StringIO()
  rows = csv.writer(table, lineterminator="\n")
  rows.writerow(["path", "labels"])
  for clip in labeled_clips():
    rows.writerow([clip.name, ";".join(look.name for look in clip.looks)])
  labels, content = os.path.join(output_dir, _LABELS), table.getvalue().encode()
  if os.path.lexists(output_dir):
    there = b""
    if os.path.isfile(labels):
      with open(labels, "rb") as file:
        there = file.read()
    is_free = os.path.isdir(output_dir) and not os.path.isdir(labels)
    if not is_free or there not in (b"", content):
      raise errors.UserError(
        "Expected an --output_dir that is new, or has these clips alone,"
        f" received {output_dir}, whose {_LABELS} is of other files. Name"
        " another folder."
      )
  os.makedirs(os.path.join(output_dir, _NEW_FOLDER), exist_ok=True)
  for clip in [*labeled_clips(), *new_clips()]:
    local_files.write_whole(os.path.join(output_dir, clip.name), encode(clip))
  local_files.write_whole(labels, content)


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string("output_dir", "", "Folder to write to; required.")


def main() -> None:
  """Makes the clips."""
  output_dir = flags.FLAGS.output_dir
  if not output_dir:
    raise errors.UserError(
      "Expected --output_dir=FOLDER, the folder to write to, received none."
    )
  make_clips(output_dir)
  print(
    f"{len(labeled_clips())} clips of {len(CLASSES)} classes are in"
    f" {output_dir}, with their labels.csv, and {len(new_clips())} others in"
    f" {os.path.join(output_dir, _NEW_FOLDER)}."
  )


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
