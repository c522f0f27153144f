"""Figures: written, not blank, right in their numbers, skipped when bare."""

from __future__ import annotations

import pathlib

from matplotlib import colors
from matplotlib import image as images
import numpy as np
import pytest

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import curve_figures
from dynashare_jax.report.run import execution_figures
from dynashare_jax.report.run import figures
from dynashare_jax.report.run import learned_figure
from dynashare_jax.report.run import policy_figures
from dynashare_jax.report.run import prediction_figures

NAMES = [plot.name for plot in figures.PLOTS]


@pytest.fixture(scope="module")
def run(workdir):
  """The complete run."""
  return workdir_lib.load(workdir)


def load(path, make, **files):
  """A run of some files only."""
  return workdir_lib.load(make(path, **files))


def texts(axes):
  """Texts drawn within axes."""
  return [text.get_text() for text in axes.texts]


def test_every_figure_is_written_and_none_is_blank(run, tmp_path):
  written = figures.write_figures(run, tmp_path)
  assert [w.plot.name for w in written] == NAMES
  for found in written:
    pixels = images.imread(found.path)[..., :3]
    assert pixels.std() > 0.05, found.plot.name
    assert min(pixels.shape[:2]) > 200, found.plot.name


def test_an_empty_run_has_no_figure_and_old_ones_are_removed(tmp_path):
  old = tmp_path / "figures" / "policy.png"
  old.parent.mkdir()
  old.write_bytes(b"of an earlier run")
  assert figures.write_figures(workdir_lib.load(tmp_path)) == []
  assert not old.exists()


@pytest.mark.parametrize(
  ("missing", "gone"),
  [
    ("policy", {"task_correlation"}),
    ("lines", {"policy_evolution", "conflict", "learning_curves", "balance", "validation_metrics"}),
    ("pictures", {"predictions"}),
  ],
)
def test_what_is_missing_is_left_out(workdir, tmp_path, missing, gone):
  name = {"policy": "policy.json", "lines": "metrics.jsonl", "pictures": "predictions.npz"}[missing]
  for file in workdir.iterdir():
    if file.is_file() and file.name != name:
      (tmp_path / file.name).write_bytes(file.read_bytes())
  found = workdir_lib.load(tmp_path)
  with style.look():
    drawn = {p.name for p in figures.PLOTS if p.draw(found) is not None}
  # The kept route is in results.json as well.
  assert drawn == set(NAMES) - gone


def test_the_balance_is_drawn_as_it_was_logged(run, tmp_path, make):
  with style.look():
    weights, norms, cosines = curve_figures.balance(run).axes
  assert [axes.get_ylabel() for axes in (weights, norms)] == ["weight", "length of gradient"]
  assert {"segmentation", "normals", "depth"} <= set(texts(weights)) & set(texts(norms))
  assert weights.get_yscale() == "log" and cosines.get_ylim() == (-1.0, 1.0)
  bold = [line for line in norms.lines if line.get_linewidth() > 1.5]
  assert {float(y) for line in bold for y in line.get_ydata()} == {2.0, 4.0, 0.05}
  # Balancers of losses measure no gradient; fixed weights are not drawn.
  for kept, wanted in (("weight/", 1), ("loss/", 0)):
    lines = [dict(row) for row in run.lines]
    for row in lines:
      row["values"] = {k: v for k, v in row["values"].items() if k.startswith(("loss/", kept))}
    found = load(tmp_path / kept, make, lines=lines, results=run.results)
    with style.look():
      figure = curve_figures.balance(found)
    assert (0 if figure is None else len(figure.axes)) == wanted


def test_what_a_method_learned_has_its_own_title(run):
  assert learned_figure.told(run) == ("What the columns read", "A row sums to 1.")
  with style.look():
    (axes,) = learned_figure.figure(run).axes
  assert texts(axes) == [".90", ".10", ".30", ".70"]
  assert [label.get_text() for label in axes.get_xticklabels()] == ["one", "other"]


def test_methods_without_policy_or_gates_skip_those_figures(tmp_path, make):
  ones = np.ones((2, 4)).tolist()
  found = load(
    tmp_path,
    make,
    policy={
      "tasks": ["a", "b"],
      "alpha": None,
      "routes": [ones],
      "chosen": 0,
      "gated": [False] * 4,
      "target_rates": [1] * 4,
    },
    results={"tasks": [], "execution": {"rate": ones}},
  )
  assert policy_figures.policy(found) is None
  assert policy_figures.correlation(found) is None
  assert execution_figures.execution(found) is None


def test_policy_shows_each_probability_and_the_number_of_blocks(run):
  with style.look():
    heat, route = policy_figures.policy(run).axes
  assert texts(heat)[:3] == [".97", ".91", ".35"]
  assert texts(route) == ["6/8", "6/8", "5/8"]
  filled = [p.get_facecolor()[:3] != (1.0, 1.0, 1.0) for p in route.patches]
  assert filled == (run.route.ravel() > 0.5).tolist()
  assert [t.get_text() for t in heat.get_yticklabels()] == list(run.tasks)


def test_many_blocks_put_the_route_below(tmp_path, make):
  alpha = np.full((2, 16), 0.5).tolist()
  found = load(
    tmp_path,
    make,
    policy={"tasks": ["a", "b"], "alpha": alpha, "routes": [np.eye(2, 16).tolist()], "chosen": 0},
  )
  with style.look():
    figure = policy_figures.policy(found)
    figure.canvas.draw()
  top, below = (axes.get_position() for axes in figure.axes)
  assert below.y1 < top.y0
  assert below.x0 == pytest.approx(top.x0, abs=0.01)


def test_similarity_of_hand_worked_policies():
  alpha = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
  cosine, pearson = policy_figures.similarity(alpha)
  np.testing.assert_allclose(np.diag(cosine), 1)
  assert cosine[0, 1] == 0
  assert cosine[0, 2] == pytest.approx(1 / np.sqrt(3))
  assert pearson[0, 1] == pytest.approx(-1)
  assert np.isnan(pearson[2]).all(), "a flat policy has no correlation"
  wanted = np.corrcoef(np.array([[0.9, 0.2, 0.4], [0.1, 0.3, 0.8]]))
  _, found = policy_figures.similarity([[0.9, 0.2, 0.4], [0.1, 0.3, 0.8]])
  np.testing.assert_allclose(found, wanted)


def test_correlation_counts_shared_blocks(run):
  with style.look():
    shared = policy_figures.correlation(run).axes[2]
  assert texts(shared) == ["6", "4", "3", "4", "6", "5", "3", "5", "5"]


def test_execution_marks_targets_on_gated_blocks_that_are_not_skipped(run):
  with style.look():
    axes = execution_figures.execution(run).axes
  rates, counts = axes[0], axes[1]
  heights = [patch.get_height() for patch in rates.patches]
  assert heights == run.rates[0].tolist()
  ticks = [(float(np.mean(l.get_xdata())), l.get_ydata()[0]) for l in rates.lines]
  assert ticks == [(4.0, 0.55), (6.0, 0.55), (7.0, 0.55)]
  assert texts(rates).count("skipped") == 2
  assert sum(p.get_height() for p in counts.patches) == pytest.approx(1)
  mean = (3 * 4 + 4 * 12 + 5 * 20 + 6 * 9) / 45
  assert f"mean {mean:.1f}" in texts(counts)


def test_candidates_start_together_and_phases_become_spans(run):
  rows = curve_figures.align(run)
  for k in range(3):
    steps = [r["step"] for r in rows if r["candidate"] == k]
    assert (min(steps), max(steps)) == (610, 800)
  spans = curve_figures.spans(rows)
  assert [s.name for s in spans] == ["warmup", "weights / policy, 4 cycles", "retrain"]
  assert [(s.first, s.last) for s in spans] == [(10, 200), (200, 600), (600, 800)]
  assert len(spans[1].stretches) == 8


def test_the_kept_candidate_is_bold_the_others_thin(run):
  with style.look():
    axes = curve_figures.losses(run).axes
  widths = [line.get_linewidth() for line in axes[0].lines]
  assert sum(w < 1 for w in widths) == 2 * 3 and sum(w > 1 for w in widths) == 6
  assert set(run.tasks) < set(texts(axes[0])), "curves are named at their end"
  assert texts(axes[1]) == ["candidate 1"]


def test_the_constant_predictor_is_named_once_where_no_curve_is(run):
  with style.look():
    figure = curve_figures.metrics(run)
    figure.canvas.draw()
  assert [texts(axes) for axes in figure.axes] == [[]] * 3
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["constant predictor"]
  box = legend.get_window_extent()
  assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
  dashed = [line.get_ydata()[0] for axes in figure.axes for line in axes.lines if _flat(line)]
  assert dashed == [8.0, 38.0, 1.1]


def _flat(line):
  return line.get_linestyle() == "--" and np.ptp(line.get_ydata()) == 0


def test_an_early_run_with_one_row_has_no_curve(tmp_path, make, run):
  found = load(tmp_path, make, lines=run.lines[:1], results=run.results)
  assert curve_figures.losses(found) is None
  assert curve_figures.metrics(found) is None


def test_predictions_hide_what_has_no_label_and_share_the_depth_scale(run):
  with style.look():
    figure = prediction_figures.predictions(run)
  shown = [axes for axes in figure.axes if axes.images]
  assert len(shown) == 3 * 10
  label = next(
    a.images[0].get_array()
    for a in shown[3:]
    if np.asarray(a.images[0].get_array())[0, 0, 0] == pytest.approx(0.93)
  )
  assert np.allclose(np.asarray(label)[:6, :10], 0.93)
  words = [text.get_text() for text in figure.legends[0].get_texts()]
  assert words == ["wall", "floor", "chair", "table", "lamp", "window", "no label"]
  bar = next(a for a in figure.axes if a.get_xlabel() == "depth (m)")
  truth = run.predictions["target/depth"][run.predictions["valid/depth"]]
  assert bar.get_xlim() == pytest.approx(np.percentile(truth, (1, 99)))


@pytest.mark.parametrize("drop", ["inputs", "valid"])
def test_predictions_do_without_inputs_or_masks(workdir, tmp_path, drop):
  arrays = dict(workdir_lib.load(workdir).predictions)
  arrays = {k: v[:2] for k, v in arrays.items() if not k.startswith(drop)}
  for name in ("results.json", "policy.json"):
    (tmp_path / name).write_bytes((pathlib.Path(workdir) / name).read_bytes())
  np.savez(tmp_path / "predictions.npz", **arrays)
  with style.look():
    figure = prediction_figures.predictions(workdir_lib.load(tmp_path))
  pictures = sum(bool(axes.images) for axes in figure.axes)
  assert pictures == (18 if drop == "inputs" else 20)


def test_classes_of_whole_pictures_stand_in_words(tmp_path, make):
  names = ["bag", "coat"]
  arrays = {
    "inputs": np.full((3, 36, 36, 1), 128, np.uint8),
    "target/item": np.array([0, 1, -1], np.int16),
    "prediction/item": np.array([0, 0, 1], np.int16),
    "valid/item": np.array([True, True, False]),
    "target/smile": np.array([1, 0, 1], np.int16),
    "prediction/smile": np.array([0.9, 0.2, 0.3], np.float16),
    "target/age": np.array([30, 40, 0], np.float16),
    "prediction/age": np.array([31, 40, 50], np.float16),
    "valid/age": np.array([True, True, False]),
    "target/ratio": np.zeros(3, np.float16),  # Of no kind: left out.
    "prediction/ratio": np.zeros(3, np.float16),
  }
  tasks = [{"name": "item", "kind": "multiclass", "classes": names}, {"name": "ratio"}]
  tasks += [{"name": "smile", "kind": "binary"}, {"name": "age", "kind": "number", "unit": "y"}]
  found = load(tmp_path, make, pictures=arrays, results={"tasks": tasks})
  with style.look():
    figure = prediction_figures.predictions(found)
  assert sum(bool(axes.images) for axes in figure.axes) == 3
  assert {text.get_text() for text in figure.texts} == {
    *("input", "item", "label: bag", "label: coat", "label: no label"),
    *("prediction: bag", "prediction: coat"),
    *("smile", "label: yes", "label: no", "prediction: yes", "prediction: no"),
    *("age", "label: 30 y", "label: 40 y", "prediction: 31 y", "prediction: 40 y"),
    "prediction: 50 y",
  }
  guesses = [t for t in figure.texts if t.get_text().startswith("prediction")]
  said = ("bag", "bag", "coat", "yes", "no", "no", "31 y", "40 y", "50 y")
  assert [t.get_text() for t in guesses] == [f"prediction: {n}" for n in said]
  red = [colors.to_rgb(t.get_color()) != colors.to_rgb(style.INK) for t in guesses]
  assert red == [0, 1, 0, 0, 0, 1, 0, 0, 0]
  del arrays["inputs"]
  found = load(tmp_path / "bare", make, pictures=arrays, results={"tasks": tasks})
  assert prediction_figures.predictions(found) is None


def test_labels_are_spread_without_leaving_the_room():
  found = style.spread([0.5, 0.5, 0.51, 0.95], 0.1, 0.0, 1.0)
  assert np.diff(sorted(found)).min() >= 0.1 - 1e-9
  assert min(found) >= 0 and max(found) <= 1
  assert found[0] < found[1] < found[2] < found[3]
  crowded = style.spread([0.9] * 20, 0.1, 0.0, 1.0)
  assert np.diff(crowded).min() > 0 and max(crowded) <= 1 + 1e-9
  assert style.spread([2.0], 0.1, 0.0, 1.0) == [1.0]


def test_class_colours_are_distinct():
  colours = style.class_colours(40)
  assert colours.shape == (40, 3)
  apart = np.abs(colours[:, None] - colours[None, :]).sum(-1)
  apart[np.arange(40), np.arange(40)] = 1
  assert apart.min() > 0.02


def test_trials_leave_no_gap_before_the_candidates(tmp_path, make):
  row = lambda step, phase, k: {
    "step": step,
    "phase": phase,
    "candidate": k,
    "cycle": 0,
    "kind": "train",
    "values": {"a": 1.0},
  }
  lines = [row(10, "warmup", -1), row(20, "warmup", -1), row(22, "measure", -1)]
  lines += [row(27, "trial", 0), row(32, "trial", 1), row(42, "retrain", 0), row(52, "retrain", 0)]
  lines += [row(62, "retrain", 1), row(72, "retrain", 1)]
  found = [
    (r["step"], r["candidate"]) for r in curve_figures.align(load(tmp_path, make, lines=lines))
  ]
  # The re-trainings begin where the warm-up ends.
  assert found == [(10, -1), (20, -1), (30, 0), (40, 0), (30, 1), (40, 1)]
