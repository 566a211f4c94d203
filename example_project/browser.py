"""A real browser without a window, for screenshots and tests: Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing() -> str:
    """Say what is missing for a browser; nothing if it is there."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "no selenium (pip install 'django-taskq-pg[browser]')"
    if not _find(*CHROMIUM):
        return "no Chromium (Debian: apt install chromium chromium-driver)"
    if not _find("chromedriver"):
        return "no chromedriver (Debian: apt install chromium-driver)"
    return ""


@contextmanager
def chromium(*, width: int, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """Yield a driver whose window is `width` pixels wide, and end the browser afterwards."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _find(*CHROMIUM)
    for argument in ("--headless=new", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    # Only pages of this machine are opened; root, as in containers, has no sandbox.
    options.add_argument("--no-sandbox")
    options.add_argument("--no-proxy-server")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_find("chromedriver")))
    try:
        # A window is never narrower than 500 pixels; what a page sees can be.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def console_errors(driver: Any) -> list[str]:
    """Return what the page's console has complained of since it was asked last."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] in ("WARNING", "SEVERE")
    ]


def _find(*names: str) -> str:
    return next((path for name in names if (path := shutil.which(name))), "")
