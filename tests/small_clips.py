"""Makes small video files: one color a class, with a bright bar that moves."""

import csv
import pathlib

import av
import numpy as np

COLORS = {"blue": (20, 30, 200), "green": (20, 180, 40), "red": (200, 30, 20)}
WIDTH, HEIGHT, RATE = 64, 48, 5


def make_clip(
  path,
  colors,
  seconds=4,
  second_color=None,
  codec="mpeg4",
  size=(HEIGHT, WIDTH),
) -> pathlib.Path:
  """Writes a clip.

  Args:
    path: of the file; its folder is made.
    colors: RGB.
    seconds: of the clip.
    second_color: of its second half.
    codec: of the video.
    size: (height, width) of its frames.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  count = seconds * RATE
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=RATE)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    for number in range(count):
      image = np.empty((*size, 3), np.uint8)
      is_late = second_color and number >= count // 2
      image[:] = second_color if is_late else colors
      left = number * 3 % size[1]
      image[:, left : left + 4] = 230
      frame = av.VideoFrame.from_ndarray(image, "rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def make_folder(folder, each=6, seconds=2) -> dict[str, str]:
  """Writes clips CLASS/CLASSn.mp4 of slightly different colors; {path: class}.

  Args:
    folder: to write to.
    each: clips of each class.
    seconds: of a clip.
  """
  labels = {}
  for name, color in COLORS.items():
    for number in range(each):
      path = f"{name}/{name}{number}.mp4"
      make_clip(
        pathlib.Path(folder) / path,
        tuple(value + 3 * number for value in color),
        seconds,
      )
      labels[path] = name
  return labels


def write_labels(path, labels, **columns) -> pathlib.Path:
  """Writes a CSV path,labels; columns: {name: function of the path}."""
  with open(path, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["path", "labels", *columns])
    for name, label in labels.items():
      more = [function(name) for function in columns.values()]
      writer.writerow([name, label, *more])
  return pathlib.Path(path)
