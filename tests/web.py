"""What the tests in a browser share; the fixtures `site`, `served` and `browser` are in conftest.py."""
import os, re, shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT/"_docs"
BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
needs_browser = pytest.mark.skipif(BROWSER is None and not os.environ.get("FTCOURSE_REQUIRE_BROWSER"),
    reason="no Chromium on PATH: apt-get install chromium (CI installs one and then this cannot be skipped)")


def pages(): return sorted({re.sub(r"^\d+_", "", p.stem) + ".html" for p in (ROOT/"nbs").glob("*.ipynb")} |
                           {"solutions/" + re.sub(r"^\d+_", "", p.stem) + ".html" for p in (ROOT/"nbs"/"solutions").glob("*.ipynb")})
