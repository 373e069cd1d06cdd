"""A real headless Chromium for the report's page, if this machine has one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

PACKED = Path(sys.prefix) / "chromium"
"""Where scripts/fetch_chromium.sh puts one."""


def chromium() -> Path | None:
    """Return the browser: $FORETHOUGHT_CHROMIUM, the fetched one, or one that is installed."""
    named = os.environ.get("FORETHOUGHT_CHROMIUM")
    if named:
        return Path(named)
    if (PACKED / "chromium").is_file():
        return PACKED / "chromium"
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


@contextmanager
def launched(path: Path) -> Iterator[Browser]:
    """Yield the browser at ``path``; the fetched one has its libraries and fonts beside it."""
    own = {"LD_LIBRARY_PATH": str(path.parent / "lib"), "FONTCONFIG_PATH": str(path.parent)}
    more = own if (path.parent / "fonts.conf").is_file() else {}
    # No sandbox: containers of CI have none, and it shows one page of ours.
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], env={**os.environ, **more}
        )
        try:
            yield browser
        finally:
            browser.close()
