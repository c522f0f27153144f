"""Tests of programs that are compiled before they are needed."""

from __future__ import annotations

import threading

from dynashare_jax.train import loop as loop_lib


def test_every_step_is_compiled_ahead_and_not_again(train, programs, tmp_path, monkeypatch):
  """Warm-up, weights, policy and re-training: one trace each, none by the loop's own thread."""
  traced, made = [], []
  advance, make = loop_lib.step_lib.advance, loop_lib.step_lib.make

  def noted(*args):
    traced.append(threading.current_thread().name.rstrip("_0"))
    return advance(*args)

  def kept(*args):
    made.append(make(*args))
    return made[-1]

  monkeypatch.setattr(loop_lib.step_lib, "advance", noted)
  monkeypatch.setattr(loop_lib.step_lib, "make", kept)
  programs.clear()
  train(tmp_path)
  assert traced == ["compiles-ahead"] * 4
  assert [program._cache_size() for program in made] == [1] * 4


def test_what_the_search_has_yet_to_find_is_not_compiled_ahead(
  train, programs, tmp_path, monkeypatch
):
  """A planned re-training has its route in the program."""
  traced = []
  advance = loop_lib.step_lib.advance

  def noted(*args):
    traced.append((threading.current_thread() is threading.main_thread(), args[2].optimizer))
    return advance(*args)

  monkeypatch.setattr(loop_lib.step_lib, "advance", noted)
  programs.clear()
  train(tmp_path, method="adashare", train__execution="planned")
  assert {own for own, optimizer in traced if optimizer == "retrain"} == {True}
  assert {own for own, optimizer in traced if optimizer != "retrain"} == {False}
