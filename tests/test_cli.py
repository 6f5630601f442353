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


# --- plan -----------------------------------------------------------------------------------------------------------

PLAN = ["plan", "llama-3.1-8b", "--method", "qlora", "--seq", "2048", "--batch", "1"]


def test_a_plan_that_fits_is_exit_0_and_says_what_it_needs():
    p = ftcourse(*PLAN, "--set", "checkpointing=true", "--gpu", "rtx-4090")
    assert p.returncode == 0 and not p.stderr and "fits rtx-4090" in p.stdout and "peak" in p.stdout and "trains 41,943,040" in p.stdout


def test_a_plan_that_does_not_fit_is_exit_1_with_the_smallest_change():
    p = ftcourse("plan", "llama-3.1-8b", "--gpu", "rtx-4090")
    assert p.returncode == 1 and not p.stderr and "does not fit rtx-4090" in p.stdout and "smallest change: turn checkpointing on" in p.stdout


def test_a_plan_that_nothing_can_save_says_so():
    p = ftcourse("plan", "llama-3.1-405b", "--method", "full", "--gpu", "t4")
    assert p.returncode == 1 and "no change makes it fit" in p.stdout


def test_a_plan_without_a_gpu_names_the_smallest(): assert "smallest GPU: t4 (16 GB)" in ftcourse("plan", "smollm2-1.7b", "--method", "full", "--seq", "256").stdout


def test_a_plan_as_json_is_the_plan():
    from ftcourse.budget import Job, arch, plan
    from ftcourse.models import load_config
    got, want = json.loads(ftcourse(*PLAN, "--json", "--set", "r=8", "--set", "target_modules=q_proj,v_proj", "--gpu", "h100").stdout), plan(
        arch(load_config("llama-3.1-8b")), Job("qlora", 2048, 1, r=8, target_modules=("q_proj", "v_proj")))
    assert (got["bytes"], got["total"], got["trainable"], got["flops"], got["fits"]) == (want.bytes, want.total, want.trainable, want.flops, True)


def test_a_plan_of_a_folder_reads_its_config_only(tmp_path):
    (tmp_path/"config.json").write_text(json.dumps(dict(model_type="llama", vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)))
    p = ftcourse("plan", str(tmp_path), "--seq", "128", "--set", "r=4")
    assert p.returncode == 0 and "note: seq is 128 and the model was made for 64 tokens" in p.stdout


@pytest.mark.parametrize("args,says", [(["no-such-model"], "neither a shipped config"), (["llama-3-8b"], "Near: llama-3.1-8b"), (["llama-2-7b", "--gpu", "rtx-4091"], "near: rtx-4090"),
    (["llama-2-7b", "--method", "qlra"], "qlora?"), (["llama-2-7b", "--seq", "-5"], "seq is -5"), (["llama-2-7b", "--batch", "0"], "batch is 0"), (["llama-2-7b", "--set", "r=0"], "r is 0"),
    (["llama-2-7b", "--set", "r=99999"], "smallest side"), (["llama-2-7b", "--set", "r=many"], "a whole number"), (["llama-2-7b", "--set", "rank=8"], "write field=value"), (["llama-2-7b", "--set", "r"], "write field=value"),
    (["llama-2-7b", "--set", "checkpointing=maybe"], "true or false"), (["llama-2-7b", "--set", "target_modules=nope"], "target_modules is"), (["roberta-base"], "only its parameters are counted"), (["/nowhere/config.json"], "cannot be read")])
def test_a_plan_that_cannot_be_made_is_one_line_and_exit_2(args, says, tmp_path):
    p = ftcourse("plan", *args, cwd=tmp_path)
    assert p.returncode == 2 and p.stdout == "" and len(p.stderr.splitlines()) == 1 and p.stderr.startswith("ftcourse: ") and says in p.stderr


def test_planning_loads_no_weights_and_takes_no_time():
    "A second of processor time is many times what it needs; a single import of PyTorch would take more."
    import resource
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    prog = f"import sys\nsys.argv = ['ftcourse', *{PLAN!r}]\nfrom ftcourse.cli import main\ntry: main()\nexcept SystemExit as e: assert not e.code\nheavy = [m for m in ('torch', 'transformers', 'numpy', 'peft', 'huggingface_hub') if m in sys.modules]\nassert not heavy, heavy"
    p = subprocess.run([sys.executable, "-c", prog], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert p.returncode == 0, p.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("pair", ["method=full", "seq=12", "batch=4"])
def test_what_has_an_option_of_its_own_is_not_set_twice(pair):
    p = ftcourse("plan", "smollm2-135m", "--set", pair)
    assert p.returncode == 2 and p.stdout == "" and len(p.stderr.splitlines()) == 1
