"""The download protocol of YouTube-8M: addresses, plans and names of files.

A partition is `<version>/<level>/<split>`, such as 2/frame/train. Its plan
lists the files and their md5. Remote names end in two characters of a-z, A-Z
and 0-9; local names have an index of four digits instead, since trainaa and
trainAA are one file where case does not count.
"""

import dataclasses
import hashlib
import re
import string

import errors

MIRRORS = ("us", "eu", "asia")

_OFFICIAL = "http://{}data.yt8m.org"
# Not on the mirrors; one's own mirror has it under the same end of the path.
_VOCABULARY_FOLDER = "https://research.google.com/youtube8m"
_VOCABULARY_PATH = "/csv/2/vocabulary.csv"

_MOST_PARTS = 1_000_000
_CHARACTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits


def local_name(remote_name: str) -> str:
  """The name on this disk: trainaa.tfrecord is train0000.tfrecord."""
  stem, _, extension = remote_name.partition(".")
  first, second = map(_CHARACTERS.index, stem[-2:])
  index = first * len(_CHARACTERS) + second
  return f"{stem[:-2]}{index:04d}.{extension}"


@dataclasses.dataclass(frozen=True)
class Shard:
  """Which part of the files to take: the `number`-th of `count` parts."""

  number: int
  count: int

  @classmethod
  def parse(cls, text: str) -> "Shard":
    """Reads --shard.

    Raises:
      errors.UserError: it is not two numbers, or one is too large.
    """
    found = re.fullmatch(r"\s*(\d{1,18})\s*,\s*(\d{1,18})\s*", text)
    shard = cls(*map(int, found.groups())) if found else cls(0, 0)
    if not 1 <= shard.number <= shard.count <= _MOST_PARTS:
      raise errors.UserError(
        "Expected --shard=i,n with i from 1 to n, and n up to"
        f" {_MOST_PARTS}, received --shard={text}."
        " Write --shard=1,100 for the first hundredth."
      )
    return shard

  def keeps(self, remote_name: str) -> bool:
    """Whether a file is in this part; each file is in one of the parts."""
    return part_of(remote_name, self.count) == self.number


def part_of(name: str, count: int) -> int:
  """Which of `count` parts a file is in, from 1; by its name alone."""
  data = name.encode(errors="surrogateescape")  # names need not be Unicode
  digest = hashlib.md5(data, usedforsecurity=False)
  return int(digest.hexdigest(), 16) % count + 1


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a partition comes from.

  Attributes:
    partition: such as 2/frame/train.
    mirror: one of MIRRORS.
    base_url: a mirror of one's own, instead; empty for none.

  Raises:
    errors.UserError: partition or base_url are not of their form.
  """

  partition: str
  mirror: str = MIRRORS[0]
  base_url: str = ""

  def __post_init__(self):
    if not re.fullmatch(
      r"\d+/(frame|video)/(train|validate|test)", self.partition
    ):
      raise errors.UserError(
        "Expected --partition=VERSION/LEVEL/SPLIT, such as 2/frame/train,"
        f" 2/video/validate or 3/frame/test, received {self.partition!r}. Name"
        " one of these."
      )
    if self.base_url and not re.match(r"https?://[^/\s]", self.base_url):
      raise errors.UserError(
        "Expected a mirror's address as --base_url, such as"
        f" http://192.168.0.5:8000, received {self.base_url!r}. Name one."
      )

  @property
  def split(self) -> str:
    """What the names of the files begin with."""
    return self.partition.rpartition("/")[2]

  @property
  def plan_url(self) -> str:
    """The address of the plan."""
    version, level, split = self.partition.split("/")
    site = self._own or _OFFICIAL.format("")
    return f"{site}/{version}/download_plans/{level}_{split}.json"

  @property
  def vocabulary_url(self) -> str:
    """The address of the class names."""
    return f"{self._own or _VOCABULARY_FOLDER}{_VOCABULARY_PATH}"

  def file_url(self, remote_name: str) -> str:
    """The address of a file of the plan."""
    site = self._own or _OFFICIAL.format(f"{self.mirror}.")
    return f"{site}/{self.partition}/{remote_name}"

  @property
  def _own(self) -> str:
    return self.base_url.rstrip("/")


def parse_plan(content: bytes, source: Source) -> dict[str, str]:
  """Reads a plan.

  Args:
    content: {"files": {remote name: md5}} as JSON.
    source: of the plan.

  Returns:
    {remote name: md5}, by local name.

  Raises:
    errors.UserError: it is something else. So no name leads out of the folder.
  """
  try:
    plan = errors.parse_json(content)["files"]
    wrong = [
      name
      for name, md5 in plan.items()
      if not re.fullmatch(rf"{source.split}[a-zA-Z0-9]{{2}}\.tfrecord", name)
      or not re.fullmatch(r"[0-9a-f]{32}", md5)
    ]
  except (ValueError, KeyError, TypeError, AttributeError):
    plan, wrong = {}, [content[:60].decode(errors="replace")]
  if wrong or not plan:
    received = repr(wrong[0]) if wrong else "an empty one"
    raise errors.UserError(
      f"Expected a plan with the names and md5 of {source.partition} from"
      f" {source.plan_url}, received {received}. Try another mirror, or check"
      " what the address shows in a browser."
    )
  return dict(sorted(plan.items(), key=lambda item: local_name(item[0])))
