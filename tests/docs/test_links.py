"""Links between the pages of the repository lead to what is there."""

from __future__ import annotations

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def _text(page):
  return _CODE.sub("", page.read_text(encoding="utf-8"))


def _anchors(page):
  """Names of the headings, as GitHub and MyST make them."""
  titles = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _faults(page):
  for link in _LINK.findall(_text(page)):
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if ":" in name:
      continue
    if not target.exists():
      yield f"{page.relative_to(ROOT)}: {link} is not there"
    elif anchor and anchor not in _anchors(target):
      yield f"{page.relative_to(ROOT)}: {link} has no such heading"


def test_every_link_leads_somewhere():
  assert len(PAGES) > 40
  faults = [fault for page in PAGES for fault in _faults(page)]
  assert not faults, "\n".join(faults)


def test_a_dead_link_is_found(tmp_path, monkeypatch):
  monkeypatch.setitem(_faults.__globals__, "ROOT", tmp_path)
  page = tmp_path / "page.md"
  page.write_text(
    "# A `b`: c\n[a](#a-b-c) [b](#a-b) [c](no.md) [d](https://x.org/no)\n```\n](e)\n```\n"
  )
  assert [fault.split(": ")[1].split()[0] for fault in _faults(page)] == ["#a-b", "no.md"]
