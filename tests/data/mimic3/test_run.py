"""A whole run on invented stays: it trains, and no value leaves the machine."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import re
import runpy
import warnings

from data.mimic3 import writer as mimic3_writer
import pytest

from dynashare_jax import runs as main
from dynashare_jax.cli import data as data_command
from dynashare_jax.data.mimic3 import dataset as mimic3

ROOT = pathlib.Path(__file__).resolve().parents[3]
NUMBER = re.compile(rb"\d+\.\d{6,}")


def _config(*setting):
  path = str(ROOT / "configs" / "mimic3.py")
  return runpy.run_path(path)["get_config"](*setting)


@pytest.mark.parametrize("setting", ["epochs", "iterations", "demo"])
def test_settings_name_what_the_data_set_needs(setting):
  config = _config(setting)
  assert set(config.data) == set(mimic3.defaults())
  for switch, value in mimic3.compat().items():
    assert config.compat[switch] == value
  assert sum(config.model.blocks) == len(config.gates.target_rates) == 8


def test_an_unknown_setting_is_refused():
  with pytest.raises(ValueError, match="knows epochs, iterations, demo"):
    _config("demos")


@pytest.mark.parametrize(
  "time, stem, head", [("causal", "hourly", "temporal"), ("authors", "series", "aspp")]
)
def test_nine_blocks_and_both_forms_can_be_described(time, stem, head):
  config = _config("demo")
  config.compat.time = time
  config.model.update(stem=stem, head=head, head_width=8, blocks=(3, 2, 2, 2))
  config.gates.target_rates = (1.0,) * 4 + (0.8,) * 5
  text = main.describe(config)
  assert re.search(r"block 8 \(gate\) ", text)
  assert re.search(r"length_of_stay +170 x 10", text)
  assert re.search(r"mortality +1\n", text)


def _quietly(argv):
  """Runs `dynashare_jax.data`, whose flags warn of Python 3.12."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    return data_command.run(argv)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Folder of the stays, of the run, and all that was printed."""
  folder = tmp_path_factory.mktemp("mimic3")
  data = mimic3_writer.few(folder / "data", (9, 4, 5))
  config = _config("demo")
  config.data_dir = str(data)
  config.data.cache = str(folder / "cache")
  config.data.hours = 96
  config.data.workers = 1
  sizes = {"widths": (16,), "strides": (2,), "dilations": (2,)}
  config.model.update(width_factor=0.25, head_width=8, blocks=(1,), **sizes)
  config.gates.target_rates = (0.8,)
  config.policy.update(warmup="all", measure=1, keep_first=False, budget=1.0)
  config.train.update(
    dict(
      batch_size=4,
      warmup_steps=2,
      cycles=1,
      weight_steps=2,
      policy_steps=1,
      retrain_steps=3,
      log_every=1,
      eval_every=3,
      checkpoint_every=3,
      weights_share=0.5,
    )
  )
  config.policy.candidates = 1
  config.policy.halving = False
  config.eval.batch_size = 4
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    found = main.run(config, str(folder / "run"))
    print(main.summary(found, str(folder / "run")))
    status = _quietly(
      [
        "check",
        f"--config={ROOT / 'configs' / 'mimic3.py'}:demo",
        f"--config.data_dir={data}",
        f"--config.data.cache={folder / 'cache'}",
        f"--output={folder / 'check'}",
      ]
    )
    assert status == 0
  return folder, found, printed.getvalue()


def test_every_task_is_trained_and_reported(trained):
  folder, found, _ = trained
  assert [t["name"] for t in found["tasks"]] == list(mimic3.TASKS)
  report = (folder / "run" / "report.md").read_text()
  for name in ("auc_macro", "auc_ovo", "kappa_linear", "average_precision"):
    assert name in report
  assert 0 < found["execution"]["mean"] <= 1
  notes = " ".join(found["notes"])
  assert "stays are longer than 96 hours" in notes


def test_no_value_of_a_patient_is_told(trained):
  """Neither printed nor in any file that is made to be read."""
  folder, _, printed = trained
  values = {
    match
    for file in (folder / "data").rglob("*timeseries.csv")
    for match in NUMBER.findall(file.read_bytes())
  }
  values |= {b"91.4142"}
  assert len(values) > 100
  told = {"terminal": printed.encode()}
  for place in ("run", "check"):
    for file in (folder / place).rglob("*"):
      if file.is_file() and "checkpoints" not in file.parts:
        told[str(file)] = file.read_bytes()
  assert len(told) > 8
  for name, text in told.items():
    leaked = [value for value in values if value in text]
    assert not leaked, (name, leaked[:3])


def test_the_check_hides_the_range_of_the_inputs(trained):
  folder, _, printed = trained
  (file,) = (folder / "check").rglob("check.json")
  for split in json.loads(file.read_text())["splits"].values():
    inputs = split["inputs"]
    assert inputs["low"] is inputs["high"] is None
    assert inputs["mean"] == inputs["std"] == [] and not inputs["non_finite"]
  assert "input" in printed
