"""Pages as a browser lays them out: light and dark, wide and narrow, nothing overlaps."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from kmem_harness.report.page import Page
from kmem_harness.report.runs import render_html
from kmem_harness.report.sweeps import experiment_sections
from tests.report.pages import Reader, card, report
from tests.report.test_sweeps import MATRIX, SWEEP

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium"),
]
#: The page stands in a frame of the width wanted: a window cannot be as narrow as a phone.
_FRAME = """<!DOCTYPE html><body style="margin:0"><iframe id="f" src="{page}"
 style="border:0;width:{width}px;height:900px"></iframe><pre id="out"></pre><script>
f.onload = async () => {{
  const page = f.contentWindow, found = page.document;
  await page.eval("Promise.all(figures.map(draw))");
  const wrong = [];
  const parts = [...found.querySelectorAll(
    "h1,h2,h3,nav,.facts,.scroll,figcaption,.legend,.plot,.main-svg,.note")];
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const inside = (a, b) => a.contains(b) || b.contains(a)
    || (a.closest(".plot") && a.closest(".plot") === b.closest(".plot"));
  const name = (one) => one.getAttribute("class") || one.tagName;
  parts.forEach((a, at) => parts.slice(at + 1).forEach((b) => {{
    if (!inside(a, b) && meet(a.getBoundingClientRect(), b.getBoundingClientRect()))
      wrong.push(name(a) + " meets " + name(b));
  }}));
  for (const plot of found.querySelectorAll(".plot")) {{
    const texts = [...plot.querySelectorAll("text")].filter((one) => one.textContent.trim());
    texts.forEach((a, at) => texts.slice(at + 1).forEach((b) => {{
      if (meet(a.getBoundingClientRect(), b.getBoundingClientRect()))
        wrong.push(a.textContent + " over " + b.textContent);
    }}));
  }}
  if (found.documentElement.scrollWidth > page.innerWidth) wrong.push("the page scrolls sideways");
  const drawn = {{}};
  for (const plot of found.querySelectorAll(".plot"))
    for (const trace of plot.data) drawn[plot.id + ": " + (trace.name || trace.type)]
      = {{x: trace.x, y: trace.y, z: trace.z}};
  out.textContent = JSON.stringify({{wrong, drawn, ground: page.getComputedStyle(found.body).backgroundColor}});
}};
</script></body>"""
GROUND = {"light": "rgb(251, 251, 250)", "dark": "rgb(20, 24, 28)"}


def run_page():
    one = report(
        "/web.slice/a",
        refusals={"total": 1, "first": None, "cards": [card("/web.slice/a", 1000.75)]},
    )
    return render_html([one, report("/web.slice/b", began=1000.25)], title="two runs of a slice")


def page_of(results):
    return Page(results["experiment"]["name"], experiment_sections(results), data=results).render()


PAGES = {"runs": run_page, "sweep": lambda: page_of(SWEEP), "matrix": lambda: page_of(MATRIX)}


@pytest.mark.parametrize("scheme", GROUND)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", PAGES)
def test_page_when_laid_out_then_nothing_overlaps_and_what_is_drawn_is_in_the_page(
    kind, width, scheme, tmp_path
):
    text = PAGES[kind]()
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    (tmp_path / "frame.html").write_text(_FRAME.format(page="page.html", width=width))
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
        *("--virtual-time-budget=20000", "--window-size=1300,1000", "--dump-dom"),
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        f"--user-data-dir={tmp_path}/profile",
    )
    outcome = subprocess.run(
        [CHROMIUM, *options, f"file://{tmp_path}/frame.html"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (found,) = re.findall(r'<pre id="out">(.*?)</pre>', outcome.stdout, re.DOTALL)
    seen = json.loads(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["wrong"] == []
    assert seen["ground"] == GROUND[scheme]
    embedded = {
        f"plot-{figure['name']}: {trace.get('name') or trace['type']}": {
            axis: trace[axis] for axis in "xyz" if axis in trace
        }
        for figure in Reader(text).embedded["figures"]
        for trace in figure["traces"]
    }
    assert embedded == seen["drawn"]
