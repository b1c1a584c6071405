import copy

import pytest

from tests.faults import checks

START = {
  "newest": None,
  "checkpoints": {},
  "json": {},
  "exports": {},
  "outputs": {"output/predictions.csv": "old"},
  "others": {"data/a": "1"},
  "events": {"model": []},
  "names": ["data/a", "output/predictions.csv"],
}
END = {
  "newest": "model/model.ckpt-4",
  "checkpoints": {
    "model/model.ckpt-2": "two",
    "model/model.ckpt-4": "four",
    "model/best/model.ckpt-4": "four",
  },
  "json": {
    "model/model_flags.json": {"model": "LogisticModel"},
    "model/evaluations.json": {"evaluations": [{"gap": 0.1}, {"gap": 0.2}]},
    "model/best.json": {"checkpoint": "best/model.ckpt-4"},
  },
  "exports": {"model/export/step_4": "answers"},
  "outputs": {"output/predictions.csv": "new"},
  "others": {"data/a": "1"},
  "events": {"model": [["loss", 1]]},
  "names": [
    "data/a",
    "model/model.ckpt-4.index",
    "model/events.out.tfevents",
    "output/predictions.csv",
  ],
}


def changed(state, **changes):
  """A copy, with some entries of its parts set, or deleted by None."""
  state = copy.deepcopy(state)
  for kind, entries in changes.items():
    if not isinstance(entries, dict):
      state[kind] = entries
      continue
    for name, value in entries.items():
      if value is None:
        del state[kind][name]
      else:
        state[kind][name] = value
  return state


def problems(found, start=START, before=(), killed=False):
  return checks.problems_of_files(start, END, found, list(before), killed)


def test_what_a_run_begins_and_ends_with_is_whole():
  assert not problems(START)
  assert not problems(END)
  assert not problems(END, start=END)
  half_way = changed(
    START,
    checkpoints={"model/model.ckpt-2": "two"},
    json={"model/evaluations.json": {"evaluations": [{"gap": 0.1}]}},
    exports={"model/export/step_2": "other answers"},
  )
  half_way["checkpoints"]["model/best/model.ckpt-2"] = "two"
  assert not problems(half_way, before=["model/model.ckpt-2"])


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"checkpoints": {"model/model.ckpt-2": "damaged: x"}}, "is another"),
    ({"checkpoints": {"model/model.ckpt-3": "three"}}, "is another"),
    ({"checkpoints": {"model/model.ckpt-2": None}}, "is lost"),
    ({"checkpoints": {"model/best/model.ckpt-4": None}}, "best.json names"),
    ({"newest": "model/model.ckpt-5"}, "is not there"),
    ({"json": {"model/model_flags.json": {}}}, "is another"),
    ({"json": {"model/best.json": "damaged: x"}}, "half-written"),
    (
      {"json": {"model/evaluations.json": {"evaluations": [{"gap": 0.3}]}}},
      "other scores",
    ),
    ({"json": {"model/model_flags.json": None}}, "is lost"),
    ({"outputs": {"output/predictions.csv": "half"}}, "half-written"),
    ({"outputs": {"output/predictions.csv": None}}, "is lost"),
    ({"exports": {"model/export/step_4": "damaged: x"}}, "half-written"),
    ({"exports": {"model/export/step_4": None}}, "is lost"),
    ({"others": {"data/a": "2"}}, "user's files"),
  ],
)
def test_what_is_lost_or_half_written_is_found(changes, word):
  found = problems(changed(END, **changes), start=END)
  assert word in "; ".join(found)


def test_a_kill_may_leave_no_export():
  found = changed(END, exports={"model/export/step_4": None})
  assert not problems(found, start=END, killed=True)


def test_a_checkpoint_of_before_the_fault_must_stay():
  assert problems(START, before=["model/model.ckpt-2"]) == [
    "checkpoint model/model.ckpt-2 is lost"
  ]


@pytest.mark.parametrize(
  ("status", "log", "is_right"),
  [
    (0, "I1 done\n", True),
    (1, "I1 a\nERROR: Expected room. Make some.\n", True),
    (2, "ERROR: Expected a file. Name one.\n", True),
    (None, "", False),
    (-11, "", False),
    (1, "", False),
    (1, "ERROR: a\nI1 b\n", False),
    (1, "ERROR: a\nERROR: b\n", False),
    (1, "Traceback (most recent call last)\nERROR: b\n", False),
    (1, "ERROR: {{function_node __wrapped__Save}} b\n", False),
  ],
)
def test_how_a_program_ends(status, log, is_right):
  assert (not checks.problems_of_end(status, log)) == is_right


def test_differences():
  assert not checks.differences(END, END, with_events=True)
  events = changed(END, events={"model": []})
  assert not checks.differences(END, events, with_events=False)
  assert checks.differences(END, events, with_events=True) == [
    "events model differs"
  ]
  found = changed(
    END,
    newest=None,
    checkpoints={"model/model.ckpt-4": None},
    outputs={"output/more": "x"},
  )
  assert len(checks.differences(END, found, with_events=False)) == 3


def test_an_older_export_may_stay():
  older = changed(END, exports={"model/export/step_2": "other answers"})
  assert not checks.differences(END, older, with_events=False)
  half = changed(END, exports={"model/export/step_2": "damaged: x"})
  assert checks.differences(END, half, with_events=False)


def test_leftovers():
  more = ["model/.run.json.tmp-*", "model/.run.json.tmp-*"]
  others = ["model/events.out.tfevents", "tmp/tmp*/model_flags.json"]
  found = changed(END, names=[*END["names"], *others, *more])
  assert checks.leftovers(END, found) == more
