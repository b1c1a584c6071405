"""Tests of data_tools.tar_members: Python's tarfile is the reference."""

import io
import tarfile

import pytest

from data_tools.tar_members import DamagedTarError, find_members

NAMES = [
  "a.npy",
  "folder/" * 20 + "b.npy",  # more than 100 characters
  "x" * 180 + ".npy",  # no place to cut for ustar
  "\u65e5\u672c/\u8a9e.npy",
  "c",
]


def write_tar(path, tar_format, names=NAMES, **more):
  """A tar with files, folders and links; {name: content}."""
  contents = {}
  with tarfile.open(path, "w", format=tar_format) as tar:
    for number, name in enumerate(names):
      folder = tarfile.TarInfo(f"folder {number}")
      folder.type = tarfile.DIRTYPE
      tar.addfile(folder)
      link = tarfile.TarInfo(f"link {number}")
      link.type, link.linkname = tarfile.SYMTYPE, "y" * more.get("link", 150)
      tar.addfile(link)
      info = tarfile.TarInfo(name)
      info.mtime = more.get("mtime", 0)
      content = bytes([number]) * (300 * number)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
      contents[name] = content
  return contents


def read_members(path):
  data = path.read_bytes()
  return {
    name: data[start : start + size]
    for name, (start, size) in find_members(str(path))
  }


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0, 12.5])
def test_all_names_are_found(tmp_path, tar_format, mtime):
  path = tmp_path / "a.tar"
  wanted = write_tar(path, tar_format, mtime=mtime)
  assert read_members(path) == wanted


def test_the_prefix_of_ustar_is_part_of_the_name(tmp_path):
  path = tmp_path / "a.tar"
  names = ["a.npy", "folder/" * 20 + "b.npy"]
  wanted = write_tar(path, tarfile.USTAR_FORMAT, names, link=9)
  assert read_members(path) == wanted


def test_an_appended_tar_is_read_too(tmp_path):
  one, two = tmp_path / "1.tar", tmp_path / "2.tar"
  wanted = write_tar(one, tarfile.PAX_FORMAT, ["a", "b"])
  wanted |= write_tar(two, tarfile.PAX_FORMAT, ["c", "d"])
  one.write_bytes(one.read_bytes() + two.read_bytes())
  assert read_members(one) == wanted


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sizes_above_8_gib(tmp_path, tar_format):
  """The file is sparse: only its header and its last block are on the disk."""
  size = 9 << 30
  info = tarfile.TarInfo("large.npy")
  info.size = size
  path = tmp_path / "a.tar"
  with open(path, "wb") as file:
    header = info.tobuf(tar_format)
    file.write(header)
    file.seek(len(header) + size)
    info = tarfile.TarInfo("next.npy")
    file.write(info.tobuf(tar_format) + bytes(1024))
  members = dict(find_members(str(path)))
  assert members["large.npy"] == (len(header), size)
  assert set(members) == {"large.npy", "next.npy"}


def test_every_cut_is_noticed(tmp_path):
  """Wherever a tar is cut, no file with other content is reported."""
  path = tmp_path / "a.tar"
  wanted = write_tar(path, tarfile.PAX_FORMAT, NAMES[:3])
  content = path.read_bytes()
  end = content.rstrip(b"\0")
  for size in range(100, len(end), 100):
    path.write_bytes(content[:size])
    found, members = {}, find_members(str(path))
    try:
      for name, (start, length) in members:
        found[name] = content[start : start + length]
    except DamagedTarError:
      assert found.items() <= wanted.items()
    else:
      raise AssertionError(f"no error for {size} bytes")


def test_a_changed_header_is_damage(tmp_path):
  path = tmp_path / "a.tar"
  write_tar(path, tarfile.PAX_FORMAT, ["a", "b"])
  content = bytearray(path.read_bytes())
  at = content.index(b"folder 1")
  content[at] = ord("g")
  path.write_bytes(content)
  found = []
  with pytest.raises(DamagedTarError, match=f"damaged at {at} bytes"):
    found += find_members(str(path))


def header(name, size, kind=b"0"):
  """A header with any text as its size."""
  head = bytearray(512)
  head[: len(name)] = name
  head[124:136] = size
  head[156:157] = kind
  head[148:156] = b" " * 8
  head[148:155] = b"%06o\0" % sum(head)
  return bytes(head)


@pytest.mark.parametrize("value", [b"-9", b"x1", b"", b"9" * 5000])
def test_sizes_that_are_none(tmp_path, value):
  path = tmp_path / "a.tar"
  path.write_bytes(header(b"a", b"-00000001000") + bytes(1024))
  with pytest.raises(DamagedTarError):
    list(find_members(str(path)))
  record = b"%d size=%s\n" % (len(value) + 8, value)
  record = record.replace(b"%d" % (len(value) + 8), b"%d" % len(record), 1)
  path.write_bytes(
    header(b"h", b"%011o\0" % len(record), b"x")
    + record.ljust(-len(record) % 512 + len(record), b"\0")
    + header(b"a", b"00000000000\0")
    + bytes(1024)
  )
  with pytest.raises(DamagedTarError, match="extended header"):
    list(find_members(str(path)))


def test_a_record_of_an_absurd_length(tmp_path):
  record = b"9" * 5000 + b" path=a\n"
  head = header(b"h", b"%011o\0" % len(record), b"x")
  path = tmp_path / "a.tar"
  path.write_bytes(head + record.ljust(5120, b"\0") + bytes(1024))
  with pytest.raises(DamagedTarError, match="extended header"):
    list(find_members(str(path)))
