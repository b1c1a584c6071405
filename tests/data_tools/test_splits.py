"""Tests of data_tools.splits."""

import collections

import numpy as np
import pytest
from conftest import assert_names, error_of

from data_tools import splits

FRACTIONS = {"train": 0.8, "validate": 0.1, "test": 0.1}


def test_each_class_is_divided_and_groups_stay_together():
  rng = np.random.default_rng(0)
  classes = rng.choice(["a", "b", "c"], 3000, p=[0.6, 0.3, 0.1]).tolist()
  # A group has one class here, as the clips of one video have.
  groups = [
    f"{name}{number}"
    for name, number in zip(
      classes, rng.integers(0, 300, 3000).tolist(), strict=True
    )
  ]
  chosen = splits.assign_splits(groups, classes, FRACTIONS, seed=1)
  of_group = collections.defaultdict(set)
  for group, split in zip(groups, chosen, strict=True):
    of_group[group].add(split)
  assert all(len(found) == 1 for found in of_group.values())
  largest = max(collections.Counter(groups).values())
  for name in "abc":
    found = collections.Counter(
      split for one, split in zip(classes, chosen, strict=True) if one == name
    )
    for split, fraction in FRACTIONS.items():
      wanted = fraction * sum(found.values())
      assert abs(found[split] - wanted) <= 2 * largest


def test_the_seed_alone_decides():
  names = [str(number) for number in range(200)]
  classes = ["a"] * 200
  first = splits.assign_splits(names, classes, FRACTIONS, 0)
  assert splits.assign_splits(names, classes, FRACTIONS, 0) == first
  other = splits.assign_splits(names, classes, FRACTIONS, 1)
  assert other != first
  counts = collections.Counter(first)
  assert counts == {"train": 160, "validate": 20, "test": 20}
  assert collections.Counter(other) == counts


def test_many_rare_classes_reach_every_split():
  names = [str(number) for number in range(300)]
  classes = [str(number // 2) for number in range(300)]
  chosen = splits.assign_splits(names, classes, FRACTIONS, 0)
  counts = collections.Counter(chosen)
  assert counts == {"train": 240, "validate": 30, "test": 30}


def test_fractions_are_parsed():
  found = splits.parse_splits(["train:0.9", "test:0.1"])
  assert found == {"train": 0.9, "test": 0.1}


@pytest.mark.parametrize(
  "text",
  ["train:0.5", "train:x,test:1", "train:0.5,other:0.5", "train:1,train:0", ""],
)
def test_wrong_fractions_are_named(text):
  assert_names(error_of(splits.parse_splits, text.split(",")), "Expected frac")
