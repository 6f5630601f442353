"""What the tests share. Offline by default: a test that needs a network says so and brings its own server."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
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
