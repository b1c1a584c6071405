"""Makes images of decoded frames, and JPEGs of images."""

import fractions
from typing import Any

import numpy as np

import errors

FITS = ("stretch", "crop")

_JPEG_QUALITY = 4  # of FFmpeg: 2 is the best, 31 the worst


class Converter:
  """Makes RGB images of one size of frames of any size and pixel format.

  Args:
    size: (height, width) of the images.
    fit: "stretch" or "crop", see media.frames.read_video.
    pixel_shape: width of a pixel by its height; None or 0: unknown, a square.
  """

  def __init__(
    self,
    size: tuple[int, int],
    fit: str,
    pixel_shape: fractions.Fraction | None = None,
  ):
    from av.video.reformatter import Interpolation, VideoReformatter

    if fit not in FITS:
      raise errors.UserError(
        f"Expected fit to be one of {', '.join(FITS)}, received {fit}."
      )
    self._size = size
    self._fit = fit
    self._pixel_shape = float(pixel_shape or 1)
    # It keeps tables for frames of the same size.
    self._reformatter = VideoReformatter()
    # Wide kernels when it shrinks, so that fine patterns do not alias. Exact
    # sums make machines with and without vector instructions agree.
    self._bicubic = (
      Interpolation.BICUBIC
      | Interpolation.ACCURATE_RND
      | Interpolation.FULL_CHR_H_INT
    )

  def __call__(self, frame) -> np.ndarray:
    """Converts a frame of PyAV.

    Returns:
      (height, width, 3) uint8.
    """
    is_turned, mirrors = _orientation(frame)
    if _has_alpha(frame.format):
      frame = _on_black(frame)
    height, width = self._size[::-1] if is_turned else self._size
    if self._fit == "crop":
      shown = frame.width * self._pixel_shape
      scale = max(height / frame.height, width / shown)
      full = (
        max(height, round(frame.height * scale)),
        max(width, round(shown * scale)),
      )
    else:
      full = height, width
    image = self._reformatter.reformat(
      frame,
      width=full[1],
      height=full[0],
      format="rgb24",
      interpolation=self._bicubic,
      threads=1,
    ).to_ndarray()
    top, left = (full[0] - height) // 2, (full[1] - width) // 2
    image = image[top : top + height, left : left + width]
    if is_turned:
      image = image.transpose(1, 0, 2)
    return image[:: mirrors[0], :: mirrors[1]]


def size_inside(
  frame, box: tuple[int, int], pixel_shape: fractions.Fraction | None = None
) -> tuple[int, int]:
  """The largest size at which a frame, at its true shape, fits in a box.

  Args:
    frame: of PyAV.
    box: (height, width).
    pixel_shape: see Converter.

  Returns:
    (height, width), at least 2 each.
  """
  shape = frame.height, frame.width * float(pixel_shape or 1)
  is_turned, _ = _orientation(frame)
  height, width = shape[::-1] if is_turned else shape
  scale = min(box[0] / height, box[1] / width)
  return max(2, round(height * scale)), max(2, round(width * scale))


def _has_alpha(pixel_format) -> bool:
  """Whether pixels may be transparent."""
  return pixel_format.has_palette or any(
    component.is_alpha for component in pixel_format.components
  )


def _on_black(frame):
  """A frame of RGB with its transparent parts black."""
  from av import VideoFrame

  rgba = frame.to_ndarray(format="rgba")
  alpha = rgba[..., 3:].astype(np.uint16)
  rgb = (rgba[..., :3] * alpha + 127) // 255
  return VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")


def _orientation(frame) -> tuple[bool, tuple[int, int]]:
  """How to show a frame, to the nearest quarter turn.

  Returns:
    Whether to transpose the image; then the steps, 1 or -1, to take its rows
    and its columns by.
  """
  from av.sidedata.sidedata import Type

  if Type.DISPLAYMATRIX not in frame.side_data:
    return False, (1, 1)
  data = bytes(frame.side_data[Type.DISPLAYMATRIX])
  # ISO/IEC 14496-12, 6.2.2: x' = a x + c y, y' = b x + d y.
  (a, b), (c, d) = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].tolist()
  if abs(b) + abs(c) > abs(a) + abs(d):
    return True, (-1 if b < 0 else 1, -1 if c < 0 else 1)
  return False, (-1 if d < 0 else 1, -1 if a < 0 else 1)


def to_jpeg(image: np.ndarray, width: int) -> bytes:
  """Makes a JPEG of an image, as for a thumbnail.

  Args:
    image: (height, width, 3) uint8, RGB.
    width: of the JPEG; its height follows.

  Returns:
    The content of a JPEG file.
  """
  import av

  height = max(2, round(image.shape[0] * width / image.shape[1]))
  encoder: Any = av.CodecContext.create("mjpeg", "w")
  encoder.width, encoder.height = width, height
  encoder.pix_fmt = "yuvj420p"
  encoder.time_base = fractions.Fraction(1)
  encoder.qmin = encoder.qmax = _JPEG_QUALITY
  frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
  frame = frame.reformat(
    width, height, "yuvj420p", interpolation="BICUBIC", threads=1
  )
  return b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode(None)]))
