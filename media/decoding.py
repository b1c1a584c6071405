"""Decodes many videos ahead, in worker processes, while others are used.

A worker runs this module: it imports no TensorFlow, and begins within a tenth
of a second. It is a process and not a thread since FFmpeg may crash on a
damaged file; the crash is then that file's error, and a new worker goes on with
the next file. Frames come through a socket: shared memory is small in many
containers.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing import connection

import numpy as np

import errors
from media.frames import DecodedVideo, Sampling, read_audio, read_video
from media.opening import BadVideoError, import_av

# Decoded videos that wait for their turn may take so much memory, those that
# are being decoded excluded.
_MOST_WAITING_BYTES = 1 << 30

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

Result = tuple[str, DecodedVideo, np.ndarray | None] | tuple[str, BadVideoError]


def decode_all(
  paths: Iterable[str],
  sampling: Sampling,
  size: tuple[int, int],
  fit: str = "stretch",
  with_audio: bool = False,
  num_workers: int | None = None,
) -> Iterator[Result]:
  """Decodes videos in worker processes.

  Each worker decodes one video at a time. Up to twice as many videos as there
  are workers are begun before their turn, and no more are begun while those
  that wait take over 1 GiB. Closing the iterator ends the workers.

  Args:
    paths: of the videos; taken one by one.
    sampling: see `media.frames.read_video`.
    size: the same.
    fit: the same.
    with_audio: whether to read the sound, of the seconds that the frames are
      of. Sound that cannot be decoded is None, and the video's note says so.
    num_workers: processes; None: one for each CPU core.

  Yields:
    In the order of `paths`: (path, DecodedVideo, samples of `read_audio` or
    None), or (path, BadVideoError) for a video that cannot be decoded.

  Raises:
    errors.UserError: av is not installed; no worker can be started.
  """
  import_av()
  order = sampling, size, fit, with_audio
  pool = _Pool(paths, order, num_workers or num_cores())
  try:
    yield from pool.results()
  finally:
    pool.close()


def num_cores() -> int:
  """The CPU cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _bytes_of(array: np.ndarray) -> memoryview:
  """The bytes of an array, which a connection takes in one dimension."""
  return array.reshape(-1).view(np.uint8).data


# --------------------------------------------------------------------------
# The process that asks


class _Pool:
  """Workers, a thread for each, and the results that wait for their turn.

  Args:
    paths: of the videos.
    order: what to do with each, see `_decode`.
    num_workers: processes.
  """

  def __init__(self, paths: Iterable[str], order: tuple, num_workers: int):
    self._paths = iter(paths)
    self._order = order
    self._most_ahead = 2 * num_workers
    self._changed = threading.Condition()
    # All below is read and written while `_changed` is held.
    self._num_begun = 0
    self._num_given = 0
    self._is_exhausted = False
    self._is_closed = False
    self._problem: BaseException | None = None
    self._waiting: dict[int, Result] = {}
    self._workers: set[_Worker] = set()
    self._threads = [
      threading.Thread(target=self._run, daemon=True)
      for _ in range(num_workers)
    ]
    for thread in self._threads:
      thread.start()

  def results(self) -> Iterator[Result]:
    """The results in order."""
    while True:
      with self._changed:
        self._changed.wait_for(self._can_go_on)
        if self._problem:
          raise self._problem
        if self._num_given not in self._waiting:
          return
        result = self._waiting.pop(self._num_given)
        self._num_given += 1
        self._changed.notify_all()
      yield result

  def _can_go_on(self) -> bool:
    """Whether there is a next result, or will be none."""
    is_done = self._is_exhausted and self._num_given == self._num_begun
    return bool(self._problem or is_done or self._num_given in self._waiting)

  def close(self) -> None:
    """Ends the workers, also in the middle of a video."""
    with self._changed:
      self._is_closed = True
      self._changed.notify_all()
      for worker in self._workers:
        worker.kill()
    for thread in self._threads:
      thread.join()

  def _run(self) -> None:
    """Gives videos to a worker and starts another one when it dies."""
    worker = None
    try:
      while (task := self._next_task()) is not None:
        index, path = task
        if worker is None:
          worker = self._new_worker()
        result = worker.decode(path, self._order)
        if worker.has_died:
          self._remove(worker)
          worker = None
        with self._changed:
          self._waiting[index] = result
          self._changed.notify_all()
    except BaseException as error:
      with self._changed:
        self._problem = self._problem or error
        self._changed.notify_all()
    finally:
      if worker is not None:
        self._remove(worker)

  def _next_task(self) -> tuple[int, str] | None:
    """Waits until a video may be begun; None if there is no other."""
    with self._changed:
      self._changed.wait_for(self._may_begin)
      if self._is_closed or self._is_exhausted or self._problem:
        return None
      path = next(self._paths, None)
      if path is None:
        self._is_exhausted = True
        self._changed.notify_all()
        return None
      index = self._num_begun
      self._num_begun += 1
      return index, path

  def _may_begin(self) -> bool:
    """Whether the next video may be begun, or there is nothing to wait for."""
    if self._is_closed or self._is_exhausted or self._problem:
      return True
    if self._num_begun >= self._num_given + self._most_ahead:
      return False
    return sum(map(_num_bytes, self._waiting.values())) < _MOST_WAITING_BYTES

  def _new_worker(self) -> "_Worker":
    worker = _Worker()
    with self._changed:
      self._workers.add(worker)
      if self._is_closed:
        worker.kill()
    return worker

  def _remove(self, worker: "_Worker") -> None:
    with self._changed:
      self._workers.discard(worker)
    worker.end()


def _num_bytes(result: Result) -> int:
  """The memory of a result."""
  if len(result) == 2:
    return 0
  _, video, audio = result
  return video.images.nbytes + (0 if audio is None else audio.nbytes)


class _Worker:
  """A process that decodes videos.

  Attributes:
    has_died: whether it is of no more use.

  Raises:
    errors.UserError: it cannot be started.
  """

  def __init__(self):
    self.has_died = False
    self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed by `end`
    self._connection, other_end = connection.Pipe()
    path = os.environ.get("PYTHONPATH")
    environment = os.environ | {
      "PYTHONPATH": f"{_ROOT}{os.pathsep}{path}" if path else _ROOT,
      "OPENBLAS_NUM_THREADS": "1",
    }
    with other_end:
      descriptor = other_end.fileno()
      self._process = subprocess.Popen(
        # -P: a folder `media` where the user is must not be taken for this one.
        [sys.executable, "-P", "-m", "media.decoding", str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=self._log,
        env=environment,
        pass_fds=[descriptor],
        start_new_session=True,  # Ctrl-C is for this process
      )
    try:
      self._connection.recv()
    except (EOFError, OSError):
      how = self._how_it_ended()
      self._log.seek(0)
      lines = self._log.read().decode(errors="replace").strip().split("\n")
      self.end()
      said = lines[-1] or how
      raise errors.UserError(
        "Expected to start processes that decode videos, received an error of"
        f" the first one: {said}."
      ) from None

  def decode(self, path: str, order: tuple) -> Result:
    """Decodes a video.

    Args:
      path: of the video.
      order: see `_decode`.

    Raises:
      errors.UserError: no video can be decoded in this way.
    """
    try:
      self._connection.send((path, *order))
      kind, content = self._connection.recv()
      if kind == "video":
        return path, *self._receive_arrays(*content)
    except (EOFError, OSError):
      self.has_died = True
      how = self._how_it_ended()
      return path, BadVideoError(f"ended the process that decoded it ({how})")
    if kind == "user error":
      raise errors.UserError(content)
    return path, BadVideoError(content)

  def _receive_arrays(
    self, video: DecodedVideo, shape: tuple, num_samples: int | None
  ) -> tuple[DecodedVideo, np.ndarray | None]:
    """Receives what `_send` sends after its first message."""
    video.images = np.empty(shape, np.uint8)
    for image in video.images:
      self._connection.recv_bytes_into(_bytes_of(image))
    if num_samples is None:
      return video, None
    audio = np.empty(num_samples, np.float32)
    if num_samples:
      self._connection.recv_bytes_into(_bytes_of(audio))
    return video, audio

  def _how_it_ended(self) -> str:
    """Why the process closed its end of the socket."""
    code = self._process.wait()
    if code == -signal.SIGKILL:
      return "killed, perhaps for want of memory"
    if code < 0:
      return signal.strsignal(-code) or f"signal {-code}"
    return f"exit code {code}"

  def kill(self) -> None:
    """Ends the process at once; `decode` then returns."""
    self._process.kill()

  def end(self) -> None:
    """Ends the process, which has nothing to do."""
    self._connection.close()
    self._process.kill()
    self._process.wait()
    self._log.close()


# --------------------------------------------------------------------------
# The worker


def _decode(
  path: str,
  sampling: Sampling,
  size: tuple[int, int],
  fit: str,
  with_audio: bool,
) -> tuple[DecodedVideo, np.ndarray | None]:
  """Decodes a video and its sound, see `decode_all`."""
  video = read_video(path, sampling, size, fit)
  audio = None
  if with_audio:
    seconds = video.duration
    if not sampling.num_frames:
      seconds = min(seconds, len(video.times) / sampling.frames_per_second)
    try:
      audio = read_audio(path, seconds=seconds)
    except BadVideoError as error:
      video.note = "; ".join(filter(None, [video.note, str(error)]))
  return video, audio


def _answer(task: tuple) -> tuple[str, tuple | str]:
  """What to send for a task: its kind, and what belongs to it."""
  try:
    return "video", _decode(*task)
  except BadVideoError as error:
    return "bad", str(error)
  except errors.UserError as error:
    return "user error", str(error)
  except MemoryError:
    return "bad", "needs more memory than there is"
  except Exception as error:  # PyAV, of a file that it does not expect
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno}"
    text = " ".join(f"{type(error).__name__} at {place}: {error}".split())
    return "bad", f"cannot be decoded ({text})"


def _send(answers: connection.Connection, kind: str, content) -> None:
  """Sends an answer; images one by one, which needs no copy of them."""
  if kind != "video":
    answers.send((kind, content))
    return
  video, audio = content
  images, video.images = video.images, np.empty(0, np.uint8)
  num_samples = None if audio is None else len(audio)
  answers.send((kind, (video, images.shape, num_samples)))
  for image in images:
    answers.send_bytes(_bytes_of(image))
  if audio is not None and len(audio):
    answers.send_bytes(_bytes_of(audio))


def work(descriptor: int) -> None:
  """Decodes what it is asked to, until nobody asks.

  Args:
    descriptor: of the socket.
  """
  with connection.Connection(descriptor) as tasks:
    tasks.send("ready")
    while True:
      try:
        task = tasks.recv()
        _send(tasks, *_answer(task))
      except (EOFError, OSError):  # the other process has ended
        return


if __name__ == "__main__":
  work(int(sys.argv[1]))
