"""Tests of benchmarks/learning/tables.py, conclusions.py and compare.py."""

import pytest
from conftest import assert_names, error_of

from benchmarks.learning import compare, tables
from benchmarks.learning.conclusions import OTHER_LOSS, conclusions
from benchmarks.learning.results import Row, save, summarize


def rows(task, model, gaps, **more):
  return [
    Row(task, model, seed, 0.5, gap, 10, 2.0, more, "abc")
    for seed, gap in enumerate(gaps)
  ]


def test_a_table_by_hand():
  found = summarize(
    [
      *rows("needle", "NextVladModel", [0.2, 0.4], mAP=0.3),
      *rows("needle", "DbofModel --iterations=300", [0.9], mAP=0.3, other=1.0),
      Row("needle", "only label frequencies", None, None, 0.1),
      *rows("order", "LstmModel", [1.0]),
    ]
  )
  text, holds = tables.page(found)
  assert holds
  assert text.splitlines() == [
    "### Order",
    "",
    "| model | seeds | score | GAP | steps | seconds |",
    "|---|---|---|---|---|---|",
    "| LstmModel | 1 | 0.500 | 1.000 | 10 | 2 |",
    "",
    "### Needle",
    "",
    "| model | seeds | score | GAP | mAP | steps | seconds |",
    "|---|---|---|---|---|---|---|",
    "| only label frequencies |  |  | 0.100 |  |  |  |",
    "| DbofModel --iterations=300 | 1 | 0.500 | 0.900 | 0.300 | 10 | 2 |",
    "| NextVladModel | 2 | 0.500 | 0.300 (0.200 to 0.400) | 0.300 | 10 | 2 |",
    "",
    "5 rows, 0 minutes of training.",
    "They are from several versions: , abc.",
  ]


def conclude(task, *of):
  return conclusions(summarize([row for some in of for row in some]), task)


def test_gating_is_compared_seed_by_seed():
  name = "MoeModel --moe_output_gating="
  off = rows("co-occurrence", f"{name}False", [0.1, 0.5, 0.9])
  on = rows("co-occurrence", f"{name}True", [0.2, 0.7, 1.0])
  # Gains .1, .2, .1: mean .1333, standard error .0577 / sqrt(3).
  assert conclude("co-occurrence", off, on)[0].text == (
    "Output gating helps: GAP +0.1333, standard error 0.0333 over 3 seeds."
  )
  same = rows("co-occurrence", f"{name}True", [0.1, 0.5, 0.9])
  assert_names(conclude("co-occurrence", off, same)[0].text, "no difference")
  assert conclude("co-occurrence", off) == []


def test_losses_are_compared_for_the_same_model():
  usual = rows(
    "many labels", "A --n=1", [0.5], mAP=0.4, **{"labels predicted": 3.1}
  )
  usual[0].more["labels"] = 3.0
  other = rows(
    "many labels",
    f"A --n=1{OTHER_LOSS}",
    [0.25],
    mAP=0.5,
    **{"labels predicted": 12.0, "labels": 3.0},
  )
  (found,) = conclude("many labels", usual, other)
  assert_names(
    found.text, "GAP -0.250", "mAP +0.100", "12.00 instead of 3.10, for 3.00"
  )
  assert conclude("many labels", other) == []


@pytest.mark.parametrize(
  ("dewhiten", "holds"), [([0.8, 0.9], True), ([0.5, 0.55], False)]
)
def test_dewhitened_features_must_help(dewhiten, holds):
  of = {"l2": [0.4, 0.5], "none": [0.5, 0.6], "dewhiten": dewhiten}
  (found,) = conclude(
    "variance",
    *(
      rows("variance", f"B --input_transform={name}", gaps)
      for name, gaps in of.items()
    ),
  )
  assert found.holds == holds
  assert_names(found.text, "B's GAP", "l2 0.450", "none 0.550")


def test_the_deep_net_must_be_the_best_on_real_records(tmp_path):
  def of(deep):
    gaps = {"LogisticModel": 0.2, "MoeModel": 0.3, "DeepNnModel": deep}
    return [
      row
      for model, gap in gaps.items()
      for row in rows("real sample", f"{model} --max_steps=410", [gap])
    ]

  assert conclude("real sample", of(0.4))[0].holds
  assert not conclude("real sample", of(0.25))[0].holds
  assert conclude("real sample", of(0.25)[:2]) == []
  for row in of(0.25):
    save(tmp_path, row)
  with pytest.raises(SystemExit) as end:
    tables.main([str(tmp_path)])
  assert end.value.code == 1


def test_reconstruction_errors_are_named():
  more = {"first reconstruction loss": 0.5, "last reconstruction loss": 0.1}
  (found,) = conclude("order", rows("order", "C", [1.0], **more))
  assert found.text == "C's reconstruction loss fell from 0.500 to 0.100."


def test_two_versions_side_by_side():
  before = summarize(
    [
      *rows("needle", "NetVladModel", [0.2, 0.3]),
      *rows("needle", "NetFvModel", [0.2]),
      *rows("needle", "DbofModel", [0.4, 0.4]),
    ]
  )
  after = summarize(
    [
      *rows("needle", "NetVladModel", [0.5, 0.6]),
      *rows("needle", "NetFvModel", [0.16]),
      *rows("needle", "LstmModel", [0.4]),
    ]
  )
  gaps = {
    model: (old, new, word)
    for _, model, measure, old, new, word in compare.compare(before, after)
    if measure == "gap"
  }
  assert gaps["NetVladModel"] == pytest.approx((0.25, 0.55, "better"))
  # Half of 0 and 0.1, the spreads of before; 0.1, that of after.
  assert gaps["NetFvModel"][2] == "within the spread, one seed"
  lines = compare.table(before, after)
  assert (
    "| needle | NetVladModel | GAP | 0.250 | 0.550 | +0.300 | better |"
    in (lines)
  )
  assert lines[-6:] == [
    "",
    "Only before:",
    "- needle: DbofModel",
    "",
    "Only after:",
    "- needle: LstmModel",
  ]


def test_commands_need_folders():
  assert_names(error_of(tables.main, []), "folders")
  assert_names(error_of(compare.main, ["a"]), "two folders", "received 1")
