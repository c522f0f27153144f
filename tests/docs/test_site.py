"""The built site in a browser, without a network: `.ci/docs` runs this."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHROMIUM = (
  shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
WIDTHS = (360, 1280)  # a phone's, a desk's
_LOOK = """
Promise.all([...document.images].map(image => {
  image.loading = "eager";
  return image.decode().then(() => "", () => image.src);
})).then(broken => JSON.stringify({
  width: document.documentElement.scrollWidth,
  broken: broken.filter(Boolean),
}))
"""
_QUIET = (
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
  " --disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The folder of the site: as `.ci/docs` built it, or built now."""
  if built := os.environ.get("DOCS_SITE"):
    return pathlib.Path(built)
  if importlib.util.find_spec("furo") is None:
    pytest.skip("needs the extra docs")
  folder = tmp_path_factory.mktemp("site")
  command = [sys.executable, "-m", "sphinx", "-q", "-W", str(ROOT / "docs"), str(folder)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert not done.returncode, done.stderr
  return folder


class Browser:
  """Chromium, spoken to through a pair of pipes."""

  def __init__(self, profile):
    read, self._out = os.pipe()
    self._in, write = os.pipe()
    # It reads from the file 3 and writes to the file 4.
    command = f'exec "$0" "$@" 3<&{read} 4>&{write}'
    line = [CHROMIUM, *_QUIET.split(), f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    self._process = subprocess.Popen(
      ["bash", "-c", command, *line], pass_fds=(read, write), stderr=subprocess.DEVNULL
    )
    os.close(read)
    os.close(write)
    self._file, self._number, self.events = os.fdopen(self._in, "rb"), 0, []
    self._session = {}
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    told = self.call("Target.attachToTarget", targetId=target, flatten=True)
    self._session = {"sessionId": told["sessionId"]}
    for name in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{name}.enable")

  def call(self, method, **params):
    """Calls a method and returns its result; what happens meanwhile is kept in `events`."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params, **self._session}
    os.write(self._out, json.dumps(message).encode() + b"\0")
    while (found := self._next()).get("id") != self._number:
      self.events.append(found)
    assert "error" not in found, found
    return found["result"]

  def _next(self):
    parts = []
    while (byte := self._file.read1(1)) != b"\0":
      assert byte, "the browser ended"
      parts.append(byte)
    return json.loads(b"".join(parts))

  def show(self, url):
    """Loads a page; returns what it looks like, and the events since."""
    self.events.clear()
    self.call("Page.navigate", url=url)
    while not any(event["method"] == "Page.loadEventFired" for event in self.events):
      self.events.append(self._next())
    found = self.call("Runtime.evaluate", expression=_LOOK, awaitPromise=True, returnByValue=True)
    return json.loads(found["result"]["value"]), list(self.events)

  def close(self):
    self._process.terminate()
    self._process.wait()
    self._file.close()
    os.close(self._out)


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
  if CHROMIUM is None:
    pytest.skip("needs Chromium")
  opened = Browser(tmp_path_factory.mktemp("profile"))
  yield opened
  opened.close()


def _faults(event):
  """What an event says is wrong."""
  told, what = event.get("params", {}), event["method"]
  if what == "Runtime.exceptionThrown":
    yield told["exceptionDetails"]["text"]
  if what == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
    yield f"console: {told['args']}"
  if what == "Log.entryAdded" and told["entry"]["level"] == "error":
    yield f"log: {told['entry']['text']} {told['entry'].get('url')}"
  if what == "Network.requestWillBeSent" and told["request"]["url"].startswith("http"):
    yield f"asks another server: {told['request']['url']}"


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_show_without_faults(browser, site, width):
  """No error in the console, no broken picture, nothing to scroll sideways, no other server."""
  pages = sorted(site.rglob("*.html"))
  assert len(pages) > 40
  browser.call(
    "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
  )
  faults = []
  for page in pages:
    look, events = browser.show(page.as_uri())
    found = [fault for event in events for fault in _faults(event)]
    found += [f"broken picture {picture}" for picture in look["broken"]]
    if look["width"] > width:
      found.append(f"{look['width']} pixels wide at {width}")
    faults += [f"{page.relative_to(site)}: {fault}" for fault in found]
  assert not faults, "\n".join(faults)


def test_a_page_with_faults_is_found_out(browser, tmp_path):
  """The test above can fail."""
  page = tmp_path / "page.html"
  page.write_text(
    "<img src='none.png'><div style='width:3000px'>wide</div>"
    "<script>console.error('x'); y()</script>"
  )
  look, events = browser.show(page.as_uri())
  assert look["width"] >= 3000 and look["broken"] == [(tmp_path / "none.png").as_uri()]
  told = " ".join(fault for event in events for fault in _faults(event))
  assert "console: " in told and "Uncaught" in told and "ERR_FILE_NOT_FOUND" in told
