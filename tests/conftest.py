"""What every test runs under: see `pytest_configure`."""

from __future__ import annotations

from collections.abc import Iterator
import ctypes
import gc
import importlib.util
import mmap
import os
import pathlib
import signal

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARE = 4  # of the machine's memory a process of the tests keeps at most one part of so many


def _known(*options: str) -> str:
  """Those of XLA's options that this jaxlib has: any other would abort the process."""
  (folder,) = importlib.util.find_spec("jaxlib").submodule_search_locations
  files = [path for path in pathlib.Path(folder).iterdir() if path.is_file()]
  library = max(files, key=lambda path: path.stat().st_size)
  with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
    # A name between zeros is a flag's; the names of retired ones stand in other tables.
    known = lambda option: text.find(f"\0{option[2:].split('=')[0]}\0".encode()) >= 0
    return " ".join(filter(known, options))


# Before jax is imported, and for the processes that tests start. Tests assume
# several devices; JAX_PLATFORMS=cuda tries them on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiles quickly, and to the same last bits in every process.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
  "XLA_FLAGS",
  _known("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"),
)
# Of all workers and of the processes that they start: a program is compiled once. An entry that one
# reads while another writes it cannot be decompressed; jax warns, and compiles (setup.cfg).
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))

from absl import flags  # noqa: E402
from absl import logging  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from tiny import contexts  # noqa: E402

# Floors of pure array functions, whose shapes and types are checked.
_CHECKED = ("dynashare_jax.ops", "dynashare_jax.objectives")


# Files that take longest: workers begin with them, so that none is left alone with one at the end.
_LONGEST = (
  "train/test_search",
  "distributed/test_shard_state",
  "sharing/test_foreign_trunk",
  "train/test_resume",
  "distributed/test_faults",
  "cli/test_cost",
  "infer/test_export",
  "train/test_step",
  "models/test_attention",
  "models/test_gated",
  "data/mimic3/test_run",
  "infer/test_conflict",
  "train/test_augment",
  "cli/test_calibrate",
  "train/test_candidates",
  "distributed/test_cluster",
  "methods/test_gated",
  "library/test_fit",
  "test_notebook",
)


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption(
    "--no-typecheck",
    action="store_true",
    help="do not check annotated shapes and types while tests run",
  )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts the files that take longest first; the order within a file stays."""
  tests = ROOT / "tests"
  ranks = {tests / f"{name}.py": rank for rank, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_configure(config: pytest.Config) -> None:
  """Four devices, no implicit broadcasting, checked shapes, parsed flags, SIGINT is heard."""
  if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)
  if hasattr(config.option, "loadscopereorder"):  # of xdist: files with most tests first
    config.option.loadscopereorder = False
  gc.set_threshold(200_000, 50, 100)  # Traces are many small objects, few of them garbage.
  contexts.keep()
  jax.config.update("jax_num_cpu_devices", 4)
  jax.config.update("jax_numpy_rank_promotion", "raise")
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  if not config.getoption("--no-typecheck"):
    jaxtyping.install_import_hook(_CHECKED, "typechecker.check")
  config.pluginmanager.import_plugin("tiny.runs")  # After the hook.


def pytest_collection_finish() -> None:
  """What is imported now stays: no collection of garbage looks at it again."""
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def memory() -> Iterator[None]:
  """Drops compiled programs after a file where they fill much memory; they are on disk, too."""
  yield
  statm = pathlib.Path("/proc/self/statm")
  if not statm.exists():
    return
  if int(statm.read_text().split()[1]) > os.sysconf("SC_PHYS_PAGES") // SHARE:
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
      trim(0)  # Else what is free stays with the process, and the next file ends in here, too.


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
  """Undoes what a command that a test runs does to the level of the log."""
  before = logging.get_verbosity()
  yield
  logging.set_verbosity(before)


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
  """Folder of real data; a test that asks for it is skipped without."""
  folder = pathlib.Path(os.environ.get("DYNASHARE_DATA", ROOT.parent / "shared" / "data"))
  if not folder.is_dir():
    pytest.skip(f"no folder of real data at {folder} (set DYNASHARE_DATA)")
  return folder
