#!/usr/bin/env python
"""Make the pictures of the example site that the documentation shows, with Chromium.

    make demo                                                        # in one terminal
    python example_project/screenshots.py http://127.0.0.1:8000      # in another

It needs `pip install 'django-taskq-pg[browser]'`, and Chromium with its driver (Debian: chromium
and chromium-driver). Each picture shows an import under way and a webhook whose receiver fails.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

from browser import chromium, console_errors, missing
from PIL import Image

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "_static"
# Name, width and height in pixels, dark or light.
VIEWS = (
    ("fieldnotes", 1280, 1130, False),
    ("fieldnotes-dark", 1280, 1130, True),
    ("fieldnotes-narrow", 400, 1500, False),
)
COLOURS = 255


def main() -> int:
    """Make all pictures of the site at the given address."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    if lack := missing():
        print(f"No pictures were made: {lack}", file=sys.stderr)
        return 1
    for name, width, height, dark in VIEWS:
        with chromium(width=width, height=height, dark=dark) as driver:
            driver.get(sys.argv[1])
            start_tasks(driver)
            show_live_state(driver, is_narrow=width < 600)
            save(driver.get_screenshot_as_png(), PICTURES / f"{name}.png")
            if complaints := console_errors(driver):
                print(f"The page complains: {complaints}", file=sys.stderr)
                return 1
    return 0


def start_tasks(driver: Any) -> None:
    """Send a webhook to a receiver that always fails, and import the sample slowly."""
    submit(driver, "webhooks/", {"webhook-event": "picture.published", "webhook-failures": "9"})
    wait(
        driver, "return document.querySelectorAll('#webhooks > :first-child .is-failed').length > 1"
    )
    submit(driver, "airports/", {})


def submit(driver: Any, action: str, values: dict[str, str]) -> None:
    """Fill in a form, send it, and wait for the page that follows."""
    driver.execute_script(
        """
        const form = document.querySelector(`form[action$="${arguments[0]}"]`);
        for (const [name, value] of Object.entries(arguments[1])) form.elements[name].value = value;
        document.body.id = "before";
        form.requestSubmit();
        """,
        action,
        values,
    )
    wait(driver, "return document.readyState === 'complete' && document.body.id !== 'before'")


def show_live_state(driver: Any, *, is_narrow: bool) -> None:
    """Wait until the import is half done, without loading the page again."""
    wait(driver, "return document.querySelector('#imports progress')?.position > 0.4")
    # On a narrow page the forms come first.
    target = "#live" if is_narrow else "body"
    driver.execute_script(
        "document.querySelector(arguments[0]).scrollIntoView(); scrollBy(0, -16)", target
    )
    time.sleep(0.6)  # the bar glides


def wait(driver: Any, script: str, within: float = 30) -> None:
    """Wait until a script in the page returns true. Raise TimeoutError."""
    deadline = time.monotonic() + within
    while not driver.execute_script(script):
        if time.monotonic() > deadline:
            raise TimeoutError(f"It did not happen within {within:g} s: {script}")
        time.sleep(0.1)


def save(png: bytes, path: Path) -> None:
    """Write a picture with few colours: a third of the size, and hardly a difference."""
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
