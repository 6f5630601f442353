"""Every checker accepts the right answer, and rejects each wrong one with the message that was meant for it."""
import importlib
from pathlib import Path

import pytest
from ftcourse import checks
from ftcourse.checks import attempt

HERE = Path(__file__).parent
RIGHT, MUTANTS = {}, {}
for p in sorted((HERE/"answers").glob("[a-z]*.py")):
    m = importlib.import_module(f"answers.{p.stem}")
    assert not RIGHT.keys() & m.RIGHT.keys() and not MUTANTS.keys() & m.MUTANTS.keys(), f"{p.name} answers what another module answers"
    RIGHT |= m.RIGHT; MUTANTS |= m.MUTANTS


@pytest.mark.parametrize("name", [n for n in vars(checks) if n.startswith("check_")])
def test_checker_accepts_the_right_answer(name): getattr(checks, name)(RIGHT[name])


@pytest.mark.parametrize("key", MUTANTS, ids=lambda k: f"{k[0]}-{k[1]}")
def test_checker_names_the_misconception(key):
    wrong, says = MUTANTS[key]
    with pytest.raises(AssertionError) as e: getattr(checks, key[0])(wrong)
    assert says in str(e.value)


@pytest.mark.parametrize("name", [n for n in vars(checks) if n.startswith("check_")])
def test_every_checker_has_mutants(name): assert sum(k[0] == name for k in MUTANTS) >= 4


def test_attempt_prints_one_line_and_never_raises(capsys):
    def boom(fn): raise RuntimeError("inside")
    def todo(): raise NotImplementedError
    def call(fn): fn()
    def own(): raise NotImplementedError("meta tensors")
    def bare(fn): raise AssertionError
    for check in (lambda fn: None, call, boom): attempt(check, todo)
    attempt(call, own); attempt(bare, todo)
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop() == "✗ todo: an assert without a message failed" and lines.pop() == "✗ own raised NotImplementedError: meta tensors"
    assert len(lines) == 3 and lines[0].startswith("✓ todo") and lines[1].startswith("○ todo") and "RuntimeError: inside" in lines[2]
