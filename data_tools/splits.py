"""Divides items into splits, by class and without cutting groups apart."""

import collections
import hashlib
from collections.abc import Sequence

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
  digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8)
  return int.from_bytes(digest.digest())


def assign_splits(
  groups: Sequence[str],
  classes: Sequence[str],
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
  sizes = collections.Counter(groups)
  class_of = {}
  for group, name in zip(groups, classes, strict=True):
    class_of.setdefault(group, name)
  of_class = collections.defaultdict(list)
  for group, name in class_of.items():
    of_class[name].append(group)
  split_of = {}
  # What is left over of one class goes on to the next: with many rare classes,
  # each alone would give all of its items to the largest split.
  lacking = dict.fromkeys(fractions, 0.0)
  for name in sorted(of_class):
    for group in sorted(of_class[name], key=lambda group: hash_of(seed, group)):
      for split, fraction in fractions.items():
        lacking[split] += fraction * sizes[group]
      chosen = max(fractions, key=lambda split: lacking[split])
      lacking[chosen] -= sizes[group]
      split_of[group] = chosen
  return [split_of[group] for group in groups]
