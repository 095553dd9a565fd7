"""Pages in a browser: nothing is wider than a phone, whatever the report is of."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from report_samples import FULL
from subject_samples import OBJECTS

from secateur.reports.content import GroupRow, LayerRow
from secateur.reports.formats.html import html
from secateur.reports.subjects import report_of

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH = 390
MEASURE = """<!DOCTYPE html>
<iframe id="page" style="width:%dpx;height:800px;border:0" src="%s"></iframe>
<pre id="told"></pre>
<script>
const frame = document.getElementById("page");
frame.onload = () => {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const isOver = (one) => one.getBoundingClientRect().right > width + 1;
  const wide = [...page.querySelectorAll("body *")].filter(
    (one) => !one.closest("svg") && !one.parentElement.closest(".scroll") && isOver(one));
  const names = wide.map((one) => one.tagName + "." + one.className);
  document.getElementById("told").textContent =
    JSON.stringify({width, whole: page.documentElement.scrollWidth, wide: names});
};
</script>"""
LONG = "backbone.features.denseblock3.denselayer24.norm1.convolution_of_the_seventh_branch" * 3
LONG_NAMES = replace(
    FULL,
    title=LONG,
    layers=(LayerRow(LONG, "Conv2d", 64, 20, 1728, 540, 1_769_472, 552_960),),
    groups=(GroupRow(LONG, 64, 64, "protected", f"{LONG} " * 5),),
    written=((LONG, f"/{LONG}"),),
    notes=(LONG,),
)
REPORTS = {
    "slim": lambda: FULL,
    "long names": lambda: LONG_NAMES,
    "comparison": lambda: report_of({LONG: FULL, "other": FULL}),
    **{kind: (lambda made=made: report_of(made())) for kind, made in OBJECTS.items()},
}


def measured(page, folder):
    """The width of a page in the frame of a phone, what it takes, and what is wider."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "frame.html").write_text(MEASURE % (WIDTH, "page.html"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    words = [BROWSER, *flags, "--virtual-time-budget=5000", "--dump-dom", f"file://{folder}/frame.html"]
    dom = subprocess.run(words, capture_output=True, text=True, timeout=300).stdout
    return json.loads(re.search(r'<pre id="told">(.*?)</pre>', dom)[1])


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("kind", sorted(REPORTS))
def test_nothing_is_wider_than_a_phone(kind, tmp_path):
    told = measured(html(REPORTS[kind]()), tmp_path)
    assert told["wide"] == []
    assert told["whole"] == told["width"] <= WIDTH


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_a_table_that_does_not_scroll_is_found(tmp_path):
    page = html(FULL).replace("overflow-x: auto", "overflow-x: visible")
    told = measured(page, tmp_path)
    assert told["whole"] > told["width"]
