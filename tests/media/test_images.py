"""Tests of media.images: rotation, transparency, shapes and pixel formats."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import error_of
from painted_videos import set_display_matrix, write_video

from media.frames import Sampling, read_video
from media.images import Converter, to_jpeg

RED, GREEN, BLUE, WHITE, BLACK = (
  np.array(color, np.uint8)
  for color in (
    (200, 20, 20),
    (20, 180, 20),
    (20, 20, 200),
    (230, 230, 230),
    (0, 0, 0),
  )
)


def quarters(height, width) -> np.ndarray:
  """Red above left, green above right, blue below left, white below right."""
  image = np.empty((height, width, 3), np.uint8)
  image[: height // 2, : width // 2] = RED
  image[: height // 2, width // 2 :] = GREEN
  image[height // 2 :, : width // 2] = BLUE
  image[height // 2 :, width // 2 :] = WHITE
  return image


def corners(image) -> list[np.ndarray]:
  """The middles of the quarters, in the order of `quarters`."""
  height, width = image.shape[:2]
  rows, columns = (height // 4, height * 3 // 4), (width // 4, width * 3 // 4)
  return [image[row, column] for row in rows for column in columns]


def assert_colors(image, *colors, tolerance=40):
  for found, expected in zip(corners(image), colors, strict=True):
    difference = found.astype(int) - expected
    assert np.abs(difference).max() <= tolerance, (found, expected)


def first_frame(path, size=(40, 60), fit="stretch"):
  found = read_video(path, Sampling(max_frames=1), size, fit)
  assert found.images.shape == (1, *size, 3)
  return found.images[0]


@pytest.mark.parametrize(
  ("matrix", "colors"),
  [
    ((1, 0, 0, 1), (RED, GREEN, BLUE, WHITE)),
    # A quarter turn clockwise, as of a telephone held upright.
    ((0, 1, -1, 0), (BLUE, RED, WHITE, GREEN)),
    ((0, -1, 1, 0), (GREEN, WHITE, RED, BLUE)),
    ((-1, 0, 0, -1), (WHITE, BLUE, GREEN, RED)),
    # Mirrored, as of the camera beside the screen.
    ((-1, 0, 0, 1), (GREEN, RED, WHITE, BLUE)),
    ((1, 0, 0, -1), (BLUE, WHITE, RED, GREEN)),
    ((0, 1, 1, 0), (RED, BLUE, GREEN, WHITE)),
  ],
)
@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_rotation_and_mirroring_are_applied(matrix, colors, fit, tmp_path):
  path = write_video(
    tmp_path / "a.mp4", [0], image_of=lambda _: quarters(64, 96)
  )
  set_display_matrix(path, *matrix)
  assert_colors(first_frame(path, fit=fit), *colors)


@pytest.mark.parametrize(
  ("name", "codec", "pixels", "height", "width"),
  [
    ("a.mkv", "libx264", "yuv444p", 65, 97),
    ("a.mkv", "ffv1", "yuv420p", 33, 31),
    ("a.mkv", "libx264", "yuv420p10le", 64, 96),
    ("a.mkv", "ffv1", "gbrp12le", 64, 96),
    ("a.mov", "prores_ks", "yuv422p10le", 64, 96),
    ("a.gif", "gif", "rgb8", 64, 96),
  ],
)
def test_sizes_and_pixel_formats(name, codec, pixels, height, width, tmp_path):
  path = write_video(
    tmp_path / name,
    [0, 1],
    codec,
    pixels=pixels,
    image_of=lambda _: quarters(height, width),
    base=Fraction(1, 25),
  )
  assert_colors(first_frame(path), RED, GREEN, BLUE, WHITE)


def test_gray_has_three_equal_channels(tmp_path):
  path = write_video(
    tmp_path / "a.mkv",
    [0],
    "ffv1",
    pixels="gray",
    image_of=lambda _: np.full((32, 32, 3), 99, np.uint8),
  )
  assert np.abs(first_frame(path).astype(int) - 99).max() <= 1


@pytest.mark.parametrize(
  ("codec", "pixels"), [("qtrle", "argb"), ("png", "rgba")]
)
def test_transparent_parts_are_black(codec, pixels, tmp_path):
  alpha = np.full((64, 96, 1), 255, np.uint8)
  alpha[32:, :48] = 0
  alpha[32:, 48:] = 128
  image = np.concatenate([quarters(64, 96), alpha], axis=2)
  path = write_video(
    tmp_path / "a.mov", [0], codec, pixels=pixels, image_of=lambda _: image
  )
  assert_colors(
    first_frame(path), RED, GREEN, BLACK, WHITE // 2 + 1, tolerance=2
  )


def test_interlaced_frames_are_taken_as_they_are(tmp_path):
  path = write_video(
    tmp_path / "a.ts",
    range(10),
    "mpeg2video",
    image_of=lambda _: quarters(64, 96),
    base=Fraction(1, 25),
    flags="+ildct+ilme",
  )
  assert_colors(first_frame(path), RED, GREEN, BLUE, WHITE)


def stripes(height, width, edges) -> np.ndarray:
  """White between two columns, black elsewhere."""
  image = np.zeros((height, width, 3), np.uint8)
  image[:, edges[0] : edges[1]] = 255
  return image


def white_columns(image) -> tuple[int, int]:
  row = image[image.shape[0] // 2, :, 0] > 127
  return int(row.argmax()), int(len(row) - row[::-1].argmax())


def test_crop_takes_the_middle_of_the_long_side(tmp_path):
  # Of 128 columns the middle 64 stay at half the size.
  path = write_video(
    tmp_path / "a.mkv",
    [0],
    "ffv1",
    image_of=lambda _: stripes(64, 128, (48, 80)),
  )
  found = first_frame(path, (32, 32), "crop")
  assert white_columns(found) == (8, 24)
  assert white_columns(first_frame(path, (32, 32), "stretch")) == (12, 20)


@pytest.mark.parametrize(
  ("pixel_shape", "is_turned", "size"),
  [
    (None, False, (30, 60)),
    (None, True, (60, 30)),  # of a telephone held upright
    (Fraction(1, 2), False, (60, 60)),
  ],
)
def test_a_whole_frame_at_its_true_shape(
  pixel_shape, is_turned, size, tmp_path
):
  path = write_video(
    tmp_path / "a.mp4",
    [0],
    image_of=lambda _: quarters(64, 128),
    pixel_shape=pixel_shape,
  )
  colors = RED, GREEN, BLUE, WHITE
  if is_turned:
    set_display_matrix(path, 0, 1, -1, 0)
    colors = BLUE, RED, WHITE, GREEN
  images = read_video(path, Sampling(max_frames=1), (60, 60), "inside").images
  assert images.shape == (1, *size, 3)
  assert_colors(images[0], *colors)


def test_a_thumbnail_of_an_extreme_shape(tmp_path):
  path = write_video(
    tmp_path / "a.mkv", [0], image_of=lambda _: quarters(2, 600)
  )
  (image,) = read_video(path, Sampling(max_frames=1), (60, 60), "inside").images
  assert image.shape == (2, 60, 3)
  assert to_jpeg(image, 60).startswith(b"\xff\xd8\xff")


def test_pixels_that_are_no_squares(tmp_path):
  # Shown as 128 columns, of which the middle half stays.
  path = write_video(
    tmp_path / "a.mkv",
    [0],
    image_of=lambda _: stripes(64, 64, (24, 40)),
    pixel_shape=Fraction(2),
  )
  assert white_columns(first_frame(path, (32, 32), "crop")) == (8, 24)


def test_fine_patterns_become_gray(tmp_path):
  image = np.zeros((256, 256, 3), np.uint8)
  image[::2] = 255
  path = write_video(tmp_path / "a.mkv", [0], "ffv1", image_of=lambda _: image)
  found = first_frame(path, (24, 24))[2:-2, 2:-2].astype(int)
  assert np.abs(found - 127).max() < 12


def test_an_unknown_fit_is_refused():
  assert "one of stretch, crop" in error_of(Converter, (8, 8), "pad")


def test_a_thumbnail_is_a_jpeg_of_its_width():
  content = to_jpeg(quarters(90, 160), 80)
  assert content.startswith(b"\xff\xd8\xff")
  with av.open(io.BytesIO(content)) as file:
    image = next(file.decode(video=0)).to_ndarray(format="rgb24")
  assert image.shape == (45, 80, 3)
  assert_colors(image, RED, GREEN, BLUE, WHITE)
