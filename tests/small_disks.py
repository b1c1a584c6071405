"""Disks with no room, for tests of what programs say and leave then."""

import contextlib
import resource
import shutil
import subprocess

import pytest


@contextlib.contextmanager
def file_limit(num_bytes: int):
  """Lets this process write no file larger than this, as `ulimit -f` does."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def small_disk(folder, num_bytes: int):
  """Mounts a small disk in memory on a folder; skips where this is forbidden.

  Args:
    folder: an empty one.
    num_bytes: of the disk.
  """
  if shutil.which("mount") is None:
    pytest.skip("needs to mount a disk")
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)],
    capture_output=True,
    text=True,
    check=False,
  )
  if mounted.returncode:
    pytest.skip(f"needs to mount a disk: {mounted.stderr.strip()}")
  try:
    yield
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=True)
