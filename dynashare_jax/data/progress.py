"""A progress bar for work on many examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib

from rich import console as rich_console
from rich import progress as rich_progress


@contextlib.contextmanager
def bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
  """Shows progress bars where standard error is a terminal.

  Args:
    title: stands before the name of every bar.

  Yields:
    A function to call with the name of a bar, how much is done, and the total.
  """
  screen = rich_console.Console(stderr=True)
  with rich_progress.Progress(
    rich_progress.TextColumn("{task.description}"),
    rich_progress.BarColumn(),
    rich_progress.MofNCompleteColumn(),
    rich_progress.TimeRemainingColumn(),
    console=screen,
    transient=True,
    disable=not screen.is_terminal,
  ) as progress:
    bars: dict[str, rich_progress.TaskID] = {}

    def advance(name: str, done: int, total: int) -> None:
      if name not in bars:
        bars[name] = progress.add_task(f"{title} {name}", total=total)
      progress.update(bars[name], completed=done)

    yield advance
