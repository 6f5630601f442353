"""The command line as a shell sees it: exit codes, one line of error, nothing but the answer on standard output."""
import json, os, subprocess, sys
from pathlib import Path

import pytest

CLI = str(Path(sys.executable).parent/"ftcourse")
def ftcourse(*args, cwd=None, **env): return subprocess.run([CLI, *args], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env})


def test_fetch_prints_the_folder_and_nothing_else(folder, tmp_path):
    p = ftcourse("fetch", cwd=tmp_path)
    assert p.returncode == 0 and p.stdout == f"{folder}\n"


def test_fetch_json_is_json(folder):
    got = json.loads(ftcourse("fetch", "--json").stdout)
    assert got["folder"] == str(folder) and set(got["sha256"]) == {"model.safetensors"} and len(got["sha256"]["model.safetensors"]) == 64


@pytest.mark.parametrize("args", [["fetch", "nonsense"], ["fetch", ""], ["fetch", "/nowhere"], ["fetch", "--json", "a/b/c"]])
def test_input_that_cannot_be_used_is_one_line_and_exit_2(args, tmp_path):
    p = ftcourse(*args, cwd=tmp_path)
    assert p.returncode == 2 and p.stdout == "" and len(p.stderr.splitlines()) == 1 and p.stderr.startswith("ftcourse: ")


@pytest.mark.parametrize("args", [["nonsense"], ["fetch", "--nonsense"], ["fetch", "a", "b"]])
def test_wrong_usage_is_exit_2_without_a_traceback(args):
    p = ftcourse(*args)
    assert p.returncode == 2 and "Traceback" not in p.stderr and p.stdout == ""


@pytest.mark.parametrize("args", [["--help"], ["fetch", "--help"], ["-h"], ["--version"]])
def test_help_is_exit_0(args):
    p = ftcourse(*args)
    assert p.returncode == 0 and p.stdout and not p.stderr


def test_an_unwritable_cache_is_one_line(tmp_path):
    (tmp_path/"file").write_text("")
    p = ftcourse("fetch", FTCOURSE_CACHE=str(tmp_path/"file"/"sub"))
    assert p.returncode == 2 and len(p.stderr.splitlines()) == 1 and "set FTCOURSE_CACHE" in p.stderr
