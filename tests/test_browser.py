"""The example site in a real browser: what changes by itself, and who can read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from example_project.browser import chromium, console_errors, missing
from tests.test_example_project import (
    Demo,
    database_url,  # noqa: F401  (a fixture)
    environment,  # noqa: F401  (a fixture)
    eventually,
    running_demo,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        bool(missing()), reason=f"the example site was NOT looked at in a browser: {missing()}"
    ),
]

NEWEST = "document.querySelector('#webhooks > :first-child')"
# The lowest contrast of any text on the page to what is behind it (WCAG 2), and the text.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (color) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgba(color).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  while (node && rgba(getComputedStyle(node).backgroundColor)[3] < 255) node = node.parentElement;
  return node ? getComputedStyle(node).backgroundColor : "white";
};
let worst = [99, ""];
for (const node of document.querySelectorAll("body *")) {
  const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!text || !node.checkVisibility() || node.closest("noscript")) continue;
  const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 120)];
}
return worst;
"""
# What a screen reader would have no name for.
UNNAMED = """
const named = (node) =>
  node.labels?.length || node.getAttribute("aria-label") || node.alt || node.textContent.trim()
  || node.querySelector("img[alt]");
const all = "input:not([type=hidden]), button, a, img, progress, meter, summary";
return [...document.querySelectorAll(all)].filter((node) => !named(node)).map((n) => n.outerHTML);
"""


@pytest.fixture
def demo(environment: dict[str, str], tmp_path: Path) -> Iterator[Demo]:  # noqa: F811
    with running_demo(environment, tmp_path) as running:
        yield running


def see(driver: Any, script: str) -> None:
    """Wait until a script in the page returns true."""
    eventually(lambda: bool(driver.execute_script(f"return {script}")), within=60)


def test_state_changes_on_the_page_without_loading_it_again(demo: Demo) -> None:
    with chromium(width=1280) as driver:
        driver.get(demo.address)
        driver.execute_script("window.sameDocument = true")
        # Somebody else sends forms; this page hears of it.
        demo.send("/webhooks/", {"webhook-event": "never.received", "webhook-failures": "9"})
        see(driver, f"{NEWEST}.textContent.includes('never.received')")
        see(driver, f"/comes at [0-9:]+, in \\d s/.test({NEWEST}.textContent)")
        see(driver, f"{NEWEST}.querySelectorAll('.is-failed').length >= 2")
        assert "503 Service Unavailable" in driver.execute_script(f"return {NEWEST}.textContent")

        demo.send("/airports/", {"sheet-slowly": "on"})
        see(driver, "document.querySelector('#imports progress')?.value >= 250")
        first = driver.execute_script("return document.querySelector('#imports progress').value")
        see(driver, f"document.querySelector('#imports progress').value > {first}")
        see(driver, "!document.querySelector('#imports progress')")
        see(driver, "document.querySelector('#tasks').textContent.includes('imported 3,376')")

        see(driver, f"{NEWEST}.querySelector('.status').textContent.includes('Failed')")
        assert "after 5 of 5 attempts" in driver.execute_script(f"return {NEWEST}.textContent")
        # Read out to those who cannot see it.
        assert "Failed" in driver.execute_script("return document.getElementById('said').innerText")
        assert driver.execute_script("return window.sameDocument") is True
        assert console_errors(driver) == []


def test_a_picture_is_shown_before_and_after(demo: Demo) -> None:
    with chromium(width=1280) as driver:
        driver.get(demo.address)
        see(driver, "[...document.images].every((image) => image.complete)")
        pairs = driver.execute_script(
            "return [...document.querySelectorAll('.pair')].map((pair) => "
            "[...pair.querySelectorAll('img')].map((image) => [image.naturalWidth, image.x]))"
        )
        assert len(pairs) == 4
        for (before, left), (after, right) in pairs:
            assert before > after == 320
            assert right > left
        assert console_errors(driver) == []


def test_the_page_fits_and_can_be_read_wide_and_narrow_light_and_dark(demo: Demo) -> None:
    for width, dark in ((1280, False), (1280, True), (400, False), (400, True)):
        with chromium(width=width, dark=dark) as driver:
            driver.get(demo.address)
            assert driver.execute_script("return document.documentElement.scrollWidth") == width
            ratio, where = driver.execute_script(CONTRAST)
            assert ratio >= 4.5, where
            assert driver.execute_script(UNNAMED) == []
            paper = "return getComputedStyle(document.body).backgroundColor"
            assert (driver.execute_script(paper) == "rgb(23, 28, 26)") is dark


def test_without_javascript_the_page_is_loaded_again_by_hand(demo: Demo) -> None:
    with chromium(width=1280) as driver:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        driver.get(demo.address)
        assert "Without JavaScript this page stands still." in driver.page_source
        demo.send("/webhooks/", {"webhook-event": "by.hand", "webhook-failures": "0"})
        eventually(lambda: "by.hand" in demo.page())
        driver.find_element("link text", "Load it again").click()
        assert "by.hand" in driver.page_source
