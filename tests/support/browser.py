"""A real browser that looks at a page: headless Chromium without any network."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

#: By which names it is installed.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 120
#: What the copy of a page says of itself once it is laid out.
MEASURE = """<script>
window.addEventListener("load", () => {
  const svg = document.querySelector(".chart svg"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, clientY: box.top + 9}));
  const all = (chosen) => [...document.querySelectorAll(chosen)];
  const wide = (each) => each.getBoundingClientRect();
  parent.postMessage(JSON.stringify({
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    boxes: all(".chart .line, .chart .dots").map((each) => [wide(each).width, wide(each).height]),
    outside: all("body *").filter((each) => wide(each).right > innerWidth + 1).map((each) => each.outerHTML),
    hover: document.querySelector("output").textContent,
    paper: getComputedStyle(document.body).backgroundColor, ran: window.hostile || "",
  }), "*");
});
</script>"""
#: A window of the browser has 500 pixels at least, a frame in it as many as it should.
FRAME = """<!doctype html><script>
window.addEventListener("message", (event) => {{
  const pre = document.createElement("pre");
  pre.id = "measured"; pre.textContent = event.data; document.body.append(pre);
}});
</script>
<body style="margin: 0"><iframe src="{name}" style="border: 0; width: {width}px; height: 2400px"></iframe></body>
"""


class Seen(NamedTuple):
    """What the page says of itself, and what the browser complains of."""

    measured: dict[str, Any]
    complaints: list[str]


def chromium() -> str:
    """The browser. Skips the test without one; fails it where REQUIRE_CHROMIUM=1."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        reason = "There is no Chromium: apt-get install chromium, then the tests again."
        if os.environ.get("REQUIRE_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def look(page: Path, width: int, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Open `page` in a window of so many pixels; `words` say what is wanted of it."""
    command = [
        chromium(), "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2400", "--virtual-time-budget=2000",
    ]  # fmt: skip
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*command, *words, page.as_uri()], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def complaints(said: str) -> list[str]:
    """What the page brought to the browser's console: scripts that fail, and all that its policy kept out."""
    return [line for line in said.splitlines() if "CONSOLE" in line]


def measure(page: Path, width: int, folder: Path, *words: str) -> Seen:
    """Lay out a copy of `page` that may run one more script, which measures it."""
    text = page.read_text(encoding="utf-8")
    opened = re.sub(r"script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", text, count=1)
    assert opened != text, "the page says which scripts may run"
    copy, frame = folder / f"measured-{width}.html", folder / f"frame-{width}.html"
    copy.write_text(opened.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    frame.write_text(FRAME.format(name=copy.name, width=width), encoding="utf-8")
    done = look(frame, max(width, 500), *words, "--dump-dom", folder=folder)
    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr
    return Seen(json.loads(html.unescape(found[1])), complaints(done.stderr))
