"""Divides items into splits, by class and without cutting groups apart."""

import hashlib
from collections.abc import Iterable

import numpy as np

import errors
from engine.dataset_card import SPLITS


def parse_splits(text: list[str]) -> dict[str, float]:
  """Parses --splits: train:0.8,validate:0.1,test:0.1.

  Raises:
    errors.UserError: a name or a number is none, or they do not add up to 1.
  """
  found = {}
  for part in text:
    name, _, number = part.partition(":")
    try:
      fraction = float(number)
    except ValueError:
      fraction = -1.0
    if name not in SPLITS or name in found or not 0 <= fraction <= 1:
      raise errors.UserError(
        "Expected fractions such as --splits=train:0.8,validate:0.1,test:0.1,"
        f" received {part!r}. The splits are {', '.join(SPLITS)}."
      )
    found[name] = fraction
  if abs(sum(found.values()) - 1) > 1e-6:
    raise errors.UserError(
      "Expected fractions that add up to 1 in --splits, received"
      f" {','.join(text)}, which add up to {sum(found.values()):g}."
    )
  return found


def hash_of(seed: int, name: str) -> int:
  """A number that looks random but depends on the seed and the name alone."""
  content = f"{seed}:{name}".encode("utf-8", "surrogatepass")
  digest = hashlib.blake2b(content, digest_size=8)
  return int.from_bytes(digest.digest())


def hashes_of(seed: int, names: Iterable[str]) -> np.ndarray:
  """hash_of each name, (names,) uint64."""
  return np.fromiter((hash_of(seed, name) for name in names), np.uint64)


def assign_splits(
  groups: Iterable[str],
  classes: Iterable[str],
  fractions: dict[str, float],
  seed: int,
) -> list[str]:
  """Chooses a split for each item.

  The groups of each class are taken in an order that looks random, and each
  goes to the split that lacks most of its share of the class so far. So the
  split of a class of N groups of equal size is right to within one group.

  Args:
    groups: of each item; all items of a group go to the same split.
    classes: the first class of each item. A group counts to that of its first
      item.
    fractions: of each split.
    seed: decides the order.

  Returns:
    The split of each item.
  """
  # A group is known by its hash; should two have the same, they stay together.
  hashes, first, group_of, sizes = np.unique(
    hashes_of(seed, groups),
    return_index=True,
    return_inverse=True,
    return_counts=True,
  )
  code_of: dict[str, int] = {}
  codes = np.fromiter(
    (code_of.setdefault(name, len(code_of)) for name in classes), np.int64
  )
  ranks = {name: rank for rank, name in enumerate(sorted(code_of))}
  rank_of_code = np.array([ranks[name] for name in code_of], np.int64)
  names = list(fractions)
  chosen = np.zeros(len(hashes), np.int8)
  # What is left over of one class goes on to the next: with many rare classes,
  # each alone would give all of its items to the largest split.
  lacking = dict.fromkeys(fractions, 0.0)
  for group in np.lexsort((hashes, rank_of_code[codes[first]])).tolist():
    size = int(sizes[group])
    for split, fraction in fractions.items():
      lacking[split] += fraction * size
    most = max(fractions, key=lacking.__getitem__)
    lacking[most] -= size
    chosen[group] = names.index(most)
  return [names[split] for split in chosen[group_of].tolist()]
