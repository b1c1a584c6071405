"""What the rows of a task say together, and whether it is as expected."""

import math
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.learning.results import Results, Summary, verdict

OTHER_LOSS = " --label_loss=AsymmetricLoss"
GATING = "MoeModel --moe_output_gating="
INPUTS = ("l2", "none", "dewhiten")


class Conclusion(NamedTuple):
  """A sentence for below a table.

  Attributes:
    text: the sentence.
    holds: False if it contradicts what the models are for.
  """

  text: str
  holds: bool = True


def _of_task(results: Results, task: str) -> dict[str, Summary]:
  return {
    model: summary for (of, model), summary in results.items() if of == task
  }


def _reconstruction(rows: dict[str, Summary]) -> Iterator[Conclusion]:
  for model, summary in rows.items():
    first = summary.values("first reconstruction loss")
    last = summary.values("last reconstruction loss")
    if first:
      yield Conclusion(
        f"{model}'s reconstruction loss fell from {statistics.fmean(first):.3f}"
        f" to {statistics.fmean(last):.3f}."
      )


def _gating(rows: dict[str, Summary]) -> Iterator[Conclusion]:
  """Compares output gating on and off, seed by seed."""
  of = [
    {row.seed: row.gap for row in rows[name].rows} if name in rows else {}
    for name in (f"{GATING}False", f"{GATING}True")
  ]
  gains = [of[1][seed] - of[0][seed] for seed in of[0].keys() & of[1].keys()]
  if len(gains) < 2:
    return
  mean = statistics.fmean(gains)
  error = statistics.stdev(gains) / math.sqrt(len(gains))
  word = "makes no difference"
  if abs(mean) > 2 * error:
    word = "helps" if mean > 0 else "harms"
  yield Conclusion(
    f"Output gating {word}: GAP {mean:+.4f}, standard error {error:.4f} over"
    f" {len(gains)} seeds."
  )


def _losses(rows: dict[str, Summary]) -> Iterator[Conclusion]:
  """Compares AsymmetricLoss with CrossEntropyLoss."""
  for model, summary in rows.items():
    usual = rows.get(model.removesuffix(OTHER_LOSS))
    if not model.endswith(OTHER_LOSS) or not usual:
      continue
    gains = {
      name: summary.mean(name) - usual.mean(name) for name in ("gap", "mAP")
    }
    yield Conclusion(
      f"{model}, compared with CrossEntropyLoss: GAP {gains['gap']:+.3f}, mAP"
      f" {gains['mAP']:+.3f}; its probabilities of a video sum to"
      f" {summary.mean('labels predicted'):.2f} instead of"
      f" {usual.mean('labels predicted'):.2f}, for {usual.mean('labels'):.2f}"
      " labels."
    )


def _inputs(rows: dict[str, Summary]) -> Iterator[Conclusion]:
  """Compares the inputs of each model: dewhitened ones must help here."""
  suffix = " --input_transform="
  for model in dict.fromkeys(name.partition(suffix)[0] for name in rows):
    found = [rows.get(f"{model}{suffix}{name}") for name in INPUTS]
    if not all(found):
      continue
    of = {
      name: summary.values("gap")
      for name, summary in zip(INPUTS, found, strict=True)
      if summary
    }
    gaps = ", ".join(
      f"{name} {statistics.fmean(values):.3f}" for name, values in of.items()
    )
    yield Conclusion(
      f"{model}'s GAP by input: {gaps}.",
      all(
        verdict(of[name], of["dewhiten"]) == "better" for name in INPUTS[:-1]
      ),
    )


def _best(rows: dict[str, Summary]) -> Iterator[Conclusion]:
  """The order of the models; DeepNnModel is for beating the others."""
  if not {"LogisticModel", "MoeModel", "DeepNnModel"} <= {
    name.partition(" ")[0] for name in rows
  }:
    return
  gaps = {name: summary.mean("gap") for name, summary in rows.items()}
  ordered = sorted(gaps, key=lambda name: -gaps[name])
  listing = ", ".join(f"{name} {gaps[name]:.3f}" for name in ordered)
  yield Conclusion(
    f"Mean GAP: {listing}.", ordered[0].startswith("DeepNnModel")
  )


_OF_TASK: dict[str, tuple[Callable, ...]] = {
  "order": (_reconstruction,),
  "variance": (_inputs,),
  "co-occurrence": (_gating, _losses),
  "many labels": (_losses,),
  "real sample": (_best,),
}


def conclusions(results: Results, task: str) -> list[Conclusion]:
  """What can be concluded from the rows that there are.

  Args:
    results: of any tasks.
    task: the one to look at.
  """
  rows = _of_task(results, task)
  return [
    conclusion
    for conclude in _OF_TASK.get(task, ())
    for conclusion in conclude(rows)
  ]
