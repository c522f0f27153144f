"""Tests of values of the configuration on the command line."""

from __future__ import annotations

import pathlib

from absl import flags
import pytest

from dynashare_jax.library import configs

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
FILE = str(pathlib.Path(__file__).resolve().parents[2] / "configs" / "rooms.py")


@pytest.mark.parametrize(
  ("name", "text", "wanted"),
  [
    ("data.tasks", "segmentation,depth", ("segmentation", "depth")),
    ("data.tasks", "segmentation, depth,", ("segmentation", "depth")),
    ("data.tasks", "depth", ("depth",)),
    ("data.tasks", "('segmentation','depth')", ("segmentation", "depth")),
    ("data.tasks", "['segmentation', 'depth']", ("segmentation", "depth")),
    ("data.tasks", "(segmentation,depth)", ("segmentation", "depth")),
    ("data.tasks", "13-class,a/b.c", ("13-class", "a/b.c")),
    ("data.tasks", "'a,b'", ("a,b",)),
    ("data.tasks", "", ()),
    ("data.tasks", "()", ()),
    ("model.blocks", "2,2,3,2", (2, 2, 3, 2)),
    ("model.blocks", "(2,2,3,2)", (2, 2, 3, 2)),
    ("model.blocks", "6", (6,)),
    ("gates.target_rates", "1,0.5", (1, 0.5)),
    ("gates.target_rates", "1e-1", (0.1,)),
  ],
)
def test_tuples_are_lists_with_commas(name, text, wanted):
  found = configs.load(FILE, [f"{name}={text}"])
  for part in name.split("."):
    found = found[part]
  assert found == wanted
  assert [type(value) for value in found] == [type(value) for value in wanted]


def test_tuples_in_the_other_ways_of_a_flag():
  line = ["", f"--config={FILE}", "--config.data.tasks", "segmentation,depth"]
  line += ["--config.model.blocks=3", "--config.model.blocks=4"]
  values = flags.FlagValues()
  flag = configs.define(values, line)
  assert configs.parse([*line, "rest"], values) == ["", "rest"]
  assert flag.value.data.tasks == ("segmentation", "depth")
  assert flag.value.model.blocks == (4,)


def test_the_later_of_two_settings_counts_for_tuples_too() -> None:
  twice = ["eval.scales=(1.0,2.0)", "seed=1", "eval.scales=0.5", "seed=2"]
  found = configs.load(FILE, twice)
  assert found.eval.scales == (0.5,) and found.seed == 2


def test_what_is_not_said_stays():
  assert configs.load(FILE).data.tasks == configs.load(FILE, ["seed=3"]).data.tasks != ()


@pytest.mark.parametrize(
  ("told", "kind", "tasks"),
  [
    ("multimnist", "mnist", 2),
    ("multimnist:fashion_and_mnist", "fashion_and_mnist", 2),
    ("multimnist:disjoint5", None, 5),
  ],
)
def test_a_configuration_is_found_by_name_from_any_folder(told, kind, tasks, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "multimnist").mkdir()
  found = configs.load(told, ["seed=3"])
  assert (found.data.get("kind"), len(found.data.tasks), found.seed) == (kind, tasks, 3)


def test_an_installed_package_has_its_configurations_within(tmp_path, monkeypatch):
  inside = tmp_path / "dynashare_jax" / "configs"
  inside.mkdir(parents=True)
  (inside / "own.py").write_text("import ml_collections as m\nget_config = m.ConfigDict")
  monkeypatch.setattr(configs, "__file__", str(tmp_path / "dynashare_jax" / "cli" / "configs.py"))
  assert configs.names() == ("own",)
  assert configs.file_of("own:7") == f"{inside / 'own.py'}:7"
  # A file of one's own is named by its path, whatever it is called.
  assert configs.file_of("./own.py") == "./own.py"


@pytest.mark.parametrize("told", ["configs/rooms.py", "romms", "rooms.py:light", "./rooms"])
def test_what_is_not_found_is_answered_with_names(told, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError) as error:
    configs.load(told)
  assert str(error.value).startswith(f"There is no configuration {told!r}. Did you mean 'rooms'? ")
  named = str(error.value).partition("By name there are: ")[2].removesuffix(".").split(", ")
  assert {"rooms", "census", "multimnist"} <= {*named} and not {"base", "deeplab"} & {*named}


def test_the_two_ways_of_naming_one_check_alike():
  for line in (["--config=rooms"], ["--config", "rooms"]):
    values = flags.FlagValues()
    line = ["", *line, "--config.model.witdhs=3"]
    configs.define(values, line)
    with pytest.raises(ValueError, match=r"no config\.model\.witdhs in rooms\. .*'model\.widths'"):
      configs.parse(line, values)


@pytest.mark.parametrize("text", ["2,two", "two", "'2','2'", "2,,x", "(2,2"])
def test_text_among_numbers_is_refused(text):
  with pytest.raises(ValueError, match=r"config\.model\.blocks must be numbers \(tuple\), as 2,2"):
    configs.load(FILE, [f"model.blocks={text}"])


@pytest.mark.parametrize(
  ("name", "told"),
  [
    ("train.batchsize", " Did you mean 'train.batch_size'?"),
    ("modle.width", " Did you mean 'model.width'?"),
    ("train.lr", "'optimizers.warmup.lr'"),
    ("retrain.momentum", "'optimizers.retrain.momentum'"),
    ("weights_share", " Did you mean 'train.weights_share'?"),
  ],
)
def test_mistyped_names_are_answered_with_the_nearest(name, told):
  with pytest.raises(ValueError) as error:
    configs.load(FILE, [f"{name}=1"])
  assert f"There is no config.{name} in {FILE}." in str(error.value) and told in str(error.value)


@pytest.mark.parametrize(
  ("text", "told"),
  [
    ("def get_config(:", "SyntaxError: "),
    ("x = 1\nx.y", "line 2: AttributeError: 'int' object has no attribute 'y'"),
    ("import nothing_like_it", "line 1: ModuleNotFoundError: No module named 'nothing_like_it'"),
    ("def get_config():\n  return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
    ("def get_config():\n  return {'seed': 0}", ": get_config must return a ConfigDict, but"),
    ("def get_config():\n  pass", "but returns a NoneType"),
    ("seed = 0", "KeyError: 'get_config'"),
  ],
)
def test_files_that_are_no_configuration_are_one_line(text, told, tmp_path):
  file = tmp_path / "own.py"
  file.write_text(text)
  with pytest.raises(ValueError) as error:
    configs.load(str(file))
  found = str(error.value)
  assert found.startswith(f"In the configuration {file}") and told in found and "\n" not in found


def test_a_name_that_begins_with_a_digit_is_told_how_to_write_it():
  wanted = r"--config\.data\.weights\['5_o_Clock_Shadow'\]=2"
  with pytest.raises(ValueError, match=wanted):
    configs.load("celeba", ["data.weights.5_o_Clock_Shadow=2"])
  found = configs.load("celeba", ["data.weights['5_o_Clock_Shadow']=2"])
  assert found.data.weights["5_o_Clock_Shadow"] == 2
