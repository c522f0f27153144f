"""Several views of the same pictures, and the average of their predictions.

A view is a picture at another scale, perhaps mirrored. Its predictions are turned back into those
of the picture itself and averaged with the other views, in the way of the task's kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Float

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import resize
from dynashare_jax.types import Array, TaskSpec


class View(NamedTuple):
  """One way to look at a picture.

  Attributes:
    scale: factor on height and width.
    mirrored: whether left and right are exchanged.
    distance: factor on depths seen in it that gives those of the picture itself: a picture enlarged
      twice shows things at half their distance, so its factor is 2.
    sideways: factor, 1 or -1, on the x component of directions seen in it.
  """

  scale: float = 1.0
  mirrored: bool = False
  distance: float = 1.0
  sideways: float = 1.0


PLAIN = View()
LARGEST = 8  # scale: 64 times the pixels


def listed(
  scales: Sequence[float], flip: bool, depth_scaled: bool = True, normals_negated: bool = True
) -> tuple[View, ...]:
  """Lists the views to average.

  Args:
    scales: factors on height and width, above 0.
    flip: whether every scale is also mirrored.
    depth_scaled: whether the network has learnt that an enlarged picture shows things nearer; the
      authors scale pictures without their depths.
    normals_negated: whether it has learnt that mirroring negates the x component of directions; the
      authors leave it on NYU v2.

  Returns:
    The views. The first one is not mirrored and has scale 1, or the first scale if there is no 1.

  Raises:
    ValueError: no scale, or one that is not a number above 0.
  """
  check_scales(scales)
  ordered = sorted(scales, key=lambda scale: scale != 1.0)
  sides = (False, True) if flip else (False,)
  distance = lambda scale: float(scale) if depth_scaled else 1.0
  sideways = {False: 1.0, True: -1.0 if normals_negated else 1.0}
  return tuple(
    View(float(scale), mirrored, distance(scale), sideways[mirrored])
    for scale in ordered
    for mirrored in sides
  )


def check_scales(scales: Sequence[float]) -> None:
  """Refuses scales that no picture can have.

  Raises:
    ValueError: none at all, one that is not a number above 0 and at most `LARGEST`, or one twice.
  """
  good = all(0 < scale <= LARGEST for scale in scales)
  if not scales or not good or len(set(scales)) < len(scales):
    raise ValueError(
      f"config.eval.scales must be one or more different numbers above 0 and at most {LARGEST}, but"
      f" is {tuple(scales)}."
    )


def check(tasks: Iterable[TaskSpec], input_kind: str, views: Sequence[View]) -> None:
  """Refuses views, as `listed` returns them, that the data or the tasks do not allow.

  Raises:
    ValueError: other views than the plain one, of inputs that are not pictures
      or for a task without an answer for every pixel.
  """
  if tuple(views) == (PLAIN,):
    return
  advice = "; set config.eval.flip = False and config.eval.scales = (1.0,)."
  if input_kind != "image":
    raise ValueError(
      "config.eval.flip and config.eval.scales need pictures, but the inputs are of the kind"
      f" {input_kind!r}{advice}"
    )
  for task in tasks:
    if not kinds.find(task.kind).dense:
      raise ValueError(
        "config.eval.flip and config.eval.scales average predictions of pixels, but the task"
        f" {task.name!r} of the kind {task.kind!r} has one for every example{advice}"
      )


def seen(view: View, images: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
  """Returns pictures as a view shows them.

  Their size is round(scale * size), at least 1 pixel, bilinear as in training.
  """
  height, width = (max(round(view.scale * n), 1) for n in images.shape[1:3])
  images = resize.enlarge(images, (height, width))
  return images[:, :, ::-1] if view.mirrored else images


def averaged(
  tasks: Sequence[TaskSpec],
  views: Sequence[View],
  apply: Callable[[Any], tuple[dict[str, Any], Any]],
  inputs: Any,
  sizes: Mapping[str, tuple[int, int]],
) -> tuple[dict[str, Any], Any]:
  """Averages the predictions of a network for several views, in a traced function.

  Args:
    tasks: all dense, unless the plain view is the only one.
    views: as `listed` returns them.
    apply: inputs -> logits of every task, and anything else.
    inputs: pictures; anything for the plain view.
    sizes: (H, W) of the labels of every task.

  Returns:
    Logits of every task: of the plain view alone the network's own, else at
    the size of the labels. And what else `apply` returned for the first view.
  """
  if tuple(views) == (PLAIN,):
    return apply(inputs)
  totals: dict[str, Any] = {}
  rest: Any = None
  for place, view in enumerate(views):
    if place:
      # One view after the other, so that memory is needed for one alone.
      inputs, totals = jax.lax.optimization_barrier((inputs, totals))
    logits, more = apply(seen(view, inputs))
    for task in tasks:
      vote = votes(task, view, logits[task.name], sizes[task.name])
      totals[task.name] = totals[task.name] + vote if place else vote
    rest = rest if place else more
  count = len(views)
  return {t.name: elected(t, totals[t.name], count) for t in tasks}, rest


def votes(
  task: TaskSpec, view: View, logits: Float[Array, "B h w O"], size: tuple[int, int]
) -> Float[Array, "B H W O"]:
  """Turns logits of a view into float32 numbers of the picture itself, to be averaged.

  They are what the task's kind averages: class probabilities, unit vectors, depths or
  values, at the `size` (H, W) of the labels.
  """
  kind = kinds.dense(task.kind)
  upright = logits[:, :, ::-1] if view.mirrored else logits
  restored = kind.restored(task, upright, view.distance, view.sideways)
  return kind.votes(task, alignment.enlarged(task, restored, size))


def elected(task: TaskSpec, total: Float[Array, "B H W O"], count: int) -> Float[Array, "B H W O"]:
  """Returns float32 logits that stand for the mean of the votes of `count` views."""
  return kinds.dense(task.kind).elected(task, total / count)
