"""What the tests share. Offline by default: a test that needs a network says so and brings its own server."""
import functools, http.server, os, subprocess, sys, threading
from pathlib import Path

import pytest
from hypothesis import settings
from web import BROWSER, SITE

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Property tests draw the same examples in each run of the same code. `pytest --hypothesis-profile=default` draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root(): return ROOT


@pytest.fixture(scope="session")
def folder():
    "The embedded model's folder, fetched if it is not in the cache."
    from ftcourse.models import fetch
    return fetch()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    "A cache of our own, with nothing in it."
    monkeypatch.setenv("FTCOURSE_CACHE", str(tmp_path/"cache"))
    return tmp_path/"cache"/"models"


# One browser and one server for all modules: Playwright's interface can be started only once in a process.

@pytest.fixture(scope="session")
def site():
    "The site, built from the notebooks as they are."
    newest = max(p.stat().st_mtime for d in ("nbs", "ftcourse", "tools") for p in (ROOT/d).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    if not (SITE/"index.html").exists() or (SITE/"index.html").stat().st_mtime < newest:
        subprocess.run([sys.executable, "tools/docs.py"], cwd=ROOT, check=True)
    return SITE


@pytest.fixture(scope="session")
def served(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown(); server.server_close()


@pytest.fixture(scope="session")
def browser():
    assert BROWSER, "FTCOURSE_REQUIRE_BROWSER is set and there is no Chromium on PATH"
    from playwright.sync_api import sync_playwright
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=BROWSER, args=flags)
        yield b
        b.close()
