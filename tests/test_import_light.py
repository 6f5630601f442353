"""What importing a module may pull in: design's tiers. Heavy libraries belong inside the function that uses them."""
import subprocess, sys
from pathlib import Path

import pytest

HEAVY = "torch transformers datasets peft trl bitsandbytes accelerate pandas numpy scipy matplotlib ipywidgets huggingface_hub tqdm IPython".split()
TORCH = {"torch", "numpy", "tqdm"}  # torch brings the other two along
ALLOWED = {"ftcourse": set(), "ftcourse.models": set(), "ftcourse.checks": set(), "ftcourse.orders": set(), "ftcourse.explore": set(), "ftcourse.budget": set(), "ftcourse.lora": TORCH, "ftcourse.rank": TORCH, "ftcourse.quant": TORCH, "ftcourse.records": set(), "ftcourse.curate": set(), "ftcourse.chat": set(), "ftcourse.batch": TORCH, "ftcourse.bias": TORCH, "ftcourse.cli": set()}


@pytest.mark.parametrize("mod,ok", ALLOWED.items(), ids=ALLOWED)
def test_import_is_light(mod, ok):
    prog = f"import sys, {mod}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    got = set(subprocess.run([sys.executable, "-c", prog], capture_output=True, text=True, check=True).stdout.split())
    assert got <= ok, f"import {mod} pulls in {got - ok}: import them inside the function that needs them"


def test_every_module_is_listed():
    found = {f"ftcourse.{p.stem}" for p in (Path(__file__).parent.parent/"ftcourse").glob("*.py") if not p.stem.startswith("_")}
    assert found | {"ftcourse"} == set(ALLOWED), "add the new module to ALLOWED, with what it may import"
