"""Places of classes in a drawing, those near each other that occur together."""

import dataclasses

import numpy as np

_STRONGEST = 3  # edges of a class, chosen from its side
_ROUNDS = 400
# Of a label, as parts of the drawing's width and height.
_LABEL_WIDTH, _LABEL_HEIGHT = 0.15, 0.085
_MARGIN_X, _MARGIN_Y = 0.08, 0.06


@dataclasses.dataclass(frozen=True)
class Edge:
  """Two classes that occur together.

  Attributes:
    one, other: rows of the matrix.
    count: videos that have both.
    strength: count / sqrt(videos of one * videos of other), from 0 to 1.
  """

  one: int
  other: int
  count: int
  strength: float


def strongest_edges(together: np.ndarray) -> list[Edge]:
  """The pairs of classes that belong together most.

  Args:
    together: (classes, classes) int, the videos that have both; on the diagonal
      those of a class.

  Returns:
    For each class its strongest pairs, each pair once.
  """
  sizes = np.maximum(np.diag(together), 1)
  strength = together / np.sqrt(np.outer(sizes, sizes))
  np.fill_diagonal(strength, 0)
  pairs = set()
  for one, row in enumerate(strength):
    for other in np.argsort(-row, kind="stable")[:_STRONGEST].tolist():
      if row[other] > 0:
        pairs.add((min(one, other), max(one, other)))
  return [
    Edge(one, other, int(together[one, other]), float(strength[one, other]))
    for one, other in sorted(pairs)
  ]


def places(count: int, edges: list[Edge]) -> np.ndarray:
  """Where to draw classes: those with strong edges near each other.

  Forces move them from a circle (Fruchterman and Reingold, 1991), with a pull
  to the middle that keeps those without edges; then labels that overlap are
  moved apart. The result is always the same.

  Args:
    count: number of classes.
    edges: between them.

  Returns:
    (count, 2) float from 0 to 1, to the right and down.
  """
  if count < 2:
    return np.full((count, 2), 0.5)
  angles = np.arange(count) * np.pi * (3 - np.sqrt(5))
  radius = np.sqrt((np.arange(count) + 0.5) / count) / 2
  at = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]
  pull = np.zeros((count, count))
  for edge in edges:
    pull[edge.one, edge.other] = pull[edge.other, edge.one] = (
      0.3 + edge.strength
    )
  ideal = 0.8 / np.sqrt(count)
  for step in range(_ROUNDS):
    apart = at[:, None] - at[None]
    distance = np.maximum(np.linalg.norm(apart, axis=2), 1e-3)
    push = ideal**2 / distance - pull * distance**2 / ideal
    np.fill_diagonal(push, 0)
    force = (apart / distance[..., None] * push[..., None]).sum(axis=1)
    force -= at * 0.8
    length = np.maximum(np.linalg.norm(force, axis=1, keepdims=True), 1e-9)
    heat = 0.08 * (1 - step / _ROUNDS)
    at = at + force / length * np.minimum(length, heat)
  low, high = at.min(axis=0), at.max(axis=0)
  at = (at - low) / np.maximum(high - low, 1e-9)
  return _without_overlaps(_inside(at))


def _inside(at: np.ndarray) -> np.ndarray:
  """Scales places from 0 to 1 to what lies within the margins."""
  margin = np.array([_MARGIN_X, _MARGIN_Y])
  return margin + at * (1 - 2 * margin)


def _without_overlaps(at: np.ndarray) -> np.ndarray:
  """Moves places apart until no label lies on another, where there is room."""
  size = np.array([_LABEL_WIDTH, _LABEL_HEIGHT])
  margin = np.array([_MARGIN_X, _MARGIN_Y])
  for _ in range(_ROUNDS):
    apart = at[:, None] - at[None]
    overlap = 1 - np.abs(apart) / size  # above 0 in both: they overlap
    hits = np.asarray((overlap > 0).all(axis=2))
    np.fill_diagonal(hits, False)
    if not hits.any():
      break
    order = np.sign(np.arange(len(at))[:, None] - np.arange(len(at)))
    direction = np.where(apart == 0, order[..., None], np.sign(apart))
    # Along the axis that needs less.
    move = direction * overlap * size * 0.25
    shorter = (overlap * size).argmin(axis=2)
    move[shorter == 0, 1] = 0
    move[shorter == 1, 0] = 0
    at = at + (move * hits[..., None]).sum(axis=1)
    at = np.clip(at, margin, 1 - margin)
  return at
