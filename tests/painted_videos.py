"""Video files whose frames show their own number, and files with defects."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BLOCK = 16
BITS = 16
SIDE = 4 * BLOCK
MILLISECOND = Fraction(1, 1000)


def paint(number: int) -> np.ndarray:
  """The image of a number: 16 black or white blocks, one for each bit."""
  bits = (number >> np.arange(BITS)) & 1
  blocks = np.where(bits, 220, 30).astype(np.uint8).reshape(4, 4)
  gray = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
  return np.repeat(gray[..., None], 3, 2)


def number_in(image: np.ndarray) -> int:
  """The number that an image shows."""
  assert image.shape == (SIDE, SIDE, 3)
  blocks = image.mean(axis=2).reshape(4, BLOCK, 4, BLOCK).mean(axis=(1, 3))
  assert (np.abs(blocks - 125) > 40).all(), blocks
  return int(((blocks.reshape(-1) > 125) << np.arange(BITS)).sum())


def numbers_in(images: np.ndarray) -> list[int]:
  return [number_in(image) for image in images]


def even_times(count: int, rate: int = 30) -> list[int]:
  """Times of frames at a constant rate, in ms, rounded."""
  return [round(1000 * index / rate) for index in range(count)]


def uneven_times(count: int, seed: int = 0) -> list[int]:
  """Times of frames at a variable rate, in ms, with a pause of 2 s."""
  steps = np.random.default_rng(seed).integers(5, 80, size=count)
  steps[count // 2] = 2000
  steps[0] = 0
  return np.cumsum(steps).tolist()


def write_video(
  path,
  times,
  codec="libx264",
  key_every=12,
  pixels="yuv420p",
  image_of=paint,
  base=MILLISECOND,
  audio=None,
  pixel_shape=None,
  container_options=None,
  **options,
) -> str:
  """Writes a video.

  Args:
    path: its name says the container.
    times: of the frames, in units of `base`.
    codec: of the video.
    key_every: the most frames from one key frame to the next.
    pixels: the pixel format.
    image_of: gives the image of a frame's index, RGB or RGBA.
    base: of the times, in seconds.
    audio: (codec, layout, sample rate, samples of (channels, n) float32, the
      time of the first, in seconds).
    pixel_shape: width of a pixel by its height.
    container_options: of the container.
    options: of the codec.

  Returns:
    The path.
  """
  options = (
    {"preset": "veryfast"}
    if codec == "libx264" and not options
    else {name.replace("_", "-"): str(value) for name, value in options.items()}
  )
  height, width = image_of(0).shape[:2]
  with av.open(str(path), "w", container_options=container_options) as file:
    stream = file.add_stream(codec, rate=Fraction(1 / base), options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, pixels
    stream.codec_context.gop_size = key_every
    stream.codec_context.time_base = base
    if pixel_shape:
      stream.codec_context.sample_aspect_ratio = pixel_shape
    sound = add_sound(file, audio) if audio else None
    for index, time in enumerate(times):
      image = image_of(index)
      kind = "rgba" if image.shape[2] == 4 else "rgb24"
      frame = av.VideoFrame.from_ndarray(image, kind).reformat(format=pixels)
      frame.pts, frame.time_base = time, base
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
    if sound:
      file.mux(sound.encode(None))
  return str(path)


def add_sound(file, audio):
  """Adds an audio stream and encodes all of its sound."""
  codec, layout, rate, samples, begin = audio
  stream = file.add_stream(codec, rate=rate, layout=layout)
  samples = np.ascontiguousarray(samples, np.float32)
  for first in range(0, samples.shape[1], 1024):
    part = np.ascontiguousarray(samples[:, first : first + 1024])
    frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
    frame.sample_rate = rate
    frame.time_base = Fraction(1, rate)
    frame.pts = first + round(begin * rate)
    for converted in av.AudioResampler(stream.format).resample(frame):
      file.mux(stream.encode(converted))
  return stream


def set_display_matrix(path, a, b, c, d) -> None:
  """Makes an MP4 file show its video by x' = a x + c y, y' = b x + d y."""
  content = bytearray(Path(path).read_bytes())
  place = content.index(b"tkhd") + 44
  rows = [a, b, 0, c, d, 0, 0, 0, 1]
  scales = [1 << 16, 1 << 16, 1 << 30] * 3
  values = [row * scale for row, scale in zip(rows, scales, strict=True)]
  content[place : place + 36] = struct.pack(">9i", *values)
  Path(path).write_bytes(content)
