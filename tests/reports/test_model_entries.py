"""Tests of reports.model_entries."""

import pytest
from conftest import error_of

from reports.model_entries import split_entries, split_entry


def test_values_may_have_commas_and_colons():
  text = (
    " DeepNnModel:feature_names=mean_rgb,mean_audio:nn_branch_sizes="
    ":train_data_pattern=gs://bucket/a*,gs://bucket/b* , MoeModel,"
  )
  one, other = split_entries(text)
  assert split_entry(one) == (
    "DeepNnModel",
    {
      "feature_names": "mean_rgb,mean_audio",
      "nn_branch_sizes": "",
      "train_data_pattern": "gs://bucket/a*,gs://bucket/b*",
    },
  )
  assert other == "MoeModel,"
  assert split_entry("MoeModel") == ("MoeModel", {})


def test_each_entry_is_there_once():
  entries = ["A", "A:b=1", "A:b=2"]
  assert split_entries(",".join(entries)) == entries
  found = error_of(split_entries, "A:b=1,A,A:b=1", "Do this.")
  assert "received A:b=1 twice. Do this." in found
  for text in ("", " "):
    assert "received none" in error_of(split_entries, text)


@pytest.mark.parametrize("entry", ["A:b", "A=b", "A:b:c=1", "A=b:c=1"])
def test_mistakes_are_named(entry):
  assert f"received {entry!r}" in error_of(split_entry, entry)
