"""What may be compared with what: identities, stored single-task results, refusals."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from tiny import configs

from dynashare_jax import runs
from dynashare_jax import types
from dynashare_jax.train import baselines

TASKS = (types.TaskSpec("a", "binary"),)


@pytest.fixture
def own():
  """The identity of a tiny run: `own(train__steps=3)`."""

  def make(**values):
    config = configs.make(**values)
    return baselines.identity(config, runs.open_dataset(config))

  return make


def results(identity, value: float = 60.0):
  metric = {"name": "auc", "higher_is_better": True, "unit": "%", "test": value}
  return {"tasks": [{"name": "a", "metrics": [metric]}], "identity": identity}


@pytest.mark.parametrize(
  ("values", "told"),
  [
    (dict(train__steps=9), "schedule.steps is 9 there and 8 here"),
    (dict(optimizers__retrain__lr=0.5), "schedule.optimizer.lr is 0.5 there and 0.01 here"),
    (dict(model__width=16), "backbone.width is 16 there and 8 here"),
    (dict(eval__flip=True), "evaluation.flip is true there and false here"),
    (dict(seed=4), "seed is 4 there and 0 here"),
    # Settings of methods, of balancing and of the search are no business of a baseline.
    (dict(method="hard", balance__name="unit", train__retrain_steps=2, policy__candidates=1), ""),
    (dict(train__log_every=1, train__threads=2, train__warmup_steps=1, eval__batch_size=5), ""),
  ],
)
def test_the_first_difference_is_named(own, values, told):
  found = baselines.differences(own(), own(**values))
  assert list(found.values()) == ([told] if told else [])
  assert list(found) == ([told.split(".")[0].split(" ")[0]] if told else [])
  assert (baselines.digest(own()) == baselines.digest(own(**values))) == (not told)


def test_another_size_is_told_before_the_contents(own):
  found = baselines.differences(own(), own(data__test=23))
  assert list(found) == ["split", "data"]
  assert found["split"] == "split.test is 23 there and 24 here"


def test_other_labels_of_one_task_are_another_task(own):
  """The rule of b changed; a run without b does not mind, and may compare with one that has it."""
  plain, other = own(), own(data__seed_b=1)
  assert list(baselines.differences(plain, other)) == ["data"]
  assert "data.tasks.b is" in baselines.differences(plain, other)["data"]
  alone = own(data__tasks=("a",))
  assert not baselines.differences(alone, other)
  assert "data.tasks.b is absent there" in baselines.differences(plain, alone)["data"]


def test_a_fingerprint_reads_few_examples_of_each_split():
  """Every example that is read counts, with its input, label and `valid`; others do not."""
  size, read = 1000, []

  def dataset(change=None, private=False):
    rng = np.random.default_rng(0)
    arrays = {
      "inputs": rng.normal(size=(size, 2)),
      "targets": rng.normal(size=size),
      "valid": rng.normal(size=size) > 0,
    }
    if change:
      name, place = change
      arrays[name][place] = ~arrays[name][place] if name == "valid" else 7.0

    class Source:
      def __len__(self):
        return size

      def __getitem__(self, i):
        read.append(i)
        inputs, target, valid = (arrays[n][i] for n in ("inputs", "targets", "valid"))
        return types.Batch(inputs, {"a": target}, {"a": valid}, np.bool_(True))

    sizes = dict.fromkeys(types.SPLITS, size)
    spec = types.DatasetSpec("x", TASKS, "series", (2,), sizes, private=private)
    return types.Dataset(spec, lambda split: None, lambda split: Source())

  plain = baselines.fingerprint(dataset())
  assert len(read) == 48 and len(set(read)) == 16
  place = max(read)
  assert place > 900
  for name in ("inputs", "targets", "valid"):
    assert baselines.fingerprint(dataset((name, place))) != plain
    assert baselines.fingerprint(dataset((name, place + 1))) == plain


def test_results_are_stored_once_and_found(own, tmp_path, caplog):
  store = tmp_path / "stored"
  path = baselines.store(store, results(own()))
  assert path == store / f"{baselines.digest(own())}.json"
  baselines.store(store, results(own(seed=1), 50.0))
  baselines.store(store, results(own(), 60.0))
  assert len(list(store.iterdir())) == 2 and not caplog.messages
  found, told = baselines.find(str(store), TASKS, own())
  assert found.values == {"a": {"auc": 60.0}} and found.path == path and not told
  assert baselines.find(str(store), TASKS, own(seed=1))[0].values["a"]["auc"] == 50.0
  # Other numbers of the same run do not replace those that tables were made with.
  baselines.store(store, results(own(), 61.0))
  assert baselines.load(path).values["a"]["auc"] == 60.0
  assert "holds other metrics of the same data" in caplog.messages[0]


def test_nothing_that_differs_is_taken_unasked(own, tmp_path):
  baselines.store(tmp_path, results(own(train__steps=9)))
  here = own()
  with pytest.raises(ValueError) as error:
    baselines.find(str(tmp_path), TASKS, here)
  told = str(error.value)
  assert "The nearest of 1: schedule.steps is 9 there and 8 here." in told and "\n" not in told
  assert "Train it first" in told
  found, told = baselines.find(str(tmp_path), TASKS, here, ("schedule",))
  assert found.values["a"]["auc"] == 60.0
  assert told == ["schedule.steps is 9 there and 8 here"]
  with pytest.raises(ValueError, match="nearest"):
    baselines.find(str(tmp_path), TASKS, own(seed=1), ("schedule",))
  with pytest.raises(ValueError, match=r"no results for the tasks \['b'\]"):
    baselines.find(str(tmp_path), (types.TaskSpec("b", "binary"),), here, ("schedule",))


def test_a_run_that_is_named_must_fit_too(own, tmp_path):
  """And one of an older version is taken, with a word."""
  (tmp_path / "results.json").write_text(json.dumps(results(own(train__steps=9))))
  with pytest.raises(ValueError, match=r"schedule\.steps is 9 there and 8 here.*--mixed=schedule"):
    baselines.find(str(tmp_path), TASKS, own())
  (tmp_path / "results.json").write_text(json.dumps(results(None)))
  found, told = baselines.find(str(tmp_path), TASKS, own())
  assert found.identity is None and told == [baselines.UNKNOWN]


def test_names_of_parts():
  assert baselines.read_mixed("seed, data", "--mixed") == ("seed", "data")
  assert baselines.read_mixed("all", "--mixed") == baselines.PARTS
  assert baselines.read_mixed("", "--mixed") == ()
  with pytest.raises(ValueError, match="Did you mean 'version'"):
    baselines.read_mixed("verson", "--mixed")


def test_single_task_networks_store_what_others_look_up(train, tmp_path):
  """A whole run each; the second one's Delta is against the first one's numbers."""
  store = str(tmp_path / "stored")
  values = dict(baseline=store, train__steps=6)
  single = train(tmp_path / "single", method="single", **values)
  assert single.found["delta"] is None
  (file,) = pathlib.Path(store).iterdir()
  assert json.loads(file.read_text()) == single.found
  hard = train(tmp_path / "hard", method="hard", **values)
  assert hard.found["delta"]["baseline"] == str(file)
  assert hard.found["delta"]["identity"] == file.stem
  assert hard.found["delta"]["differences"] == []
  assert hard.found["delta"]["values"] == baselines.values(single.found)
  with pytest.raises(ValueError, match=r"schedule\.steps is 6 there and 7 here"):
    runs.build(configs.make(method="hard", baseline=store, train__steps=7))
  allowed = configs.make(method="hard", baseline=store, train__steps=7, mixed="schedule")
  assert runs.build(allowed)
  with pytest.raises(ValueError, match=r"config\.mixed is 'schedle'"):
    runs.build(configs.make(method="hard", mixed="schedle"))
