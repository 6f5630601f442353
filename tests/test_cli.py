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


# --- data -----------------------------------------------------------------------------------------------------------

GOOD, BAD = '{"instruction": "Add 1 and 2.", "output": "3"}\n', '{"instruction": "Add 2 and 2.", "output": ""}\n'


def test_data_check_of_good_rows_is_exit_0(tmp_path):
    (tmp_path/"a.jsonl").write_text(GOOD*3)
    p = ftcourse("data", "check", "a.jsonl", cwd=tmp_path)
    assert p.returncode == 0 and "3 rows, alpaca; 3 good, 0 bad" in p.stdout and "Traceback" not in p.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["a.jsonl"], "check writes nothing"


def test_data_check_of_bad_rows_is_exit_1_and_says_where(tmp_path):
    (tmp_path/"a.jsonl").write_text(GOOD + BAD)
    p = ftcourse("data", "check", "a.jsonl", "--json", cwd=tmp_path)
    got = json.loads(p.stdout)
    assert p.returncode == 1 and (got["rows"], got["good"], got["bad"], got["ok"]) == (2, 1, 1, False)
    assert got["reasons"]["empty_field"]["examples"][0] == dict(row=2, line=2, field="output", detail="")


def test_data_convert_writes_both_files_and_they_add_up(tmp_path):
    (tmp_path/"a.jsonl").write_text(GOOD*2 + BAD)
    p = ftcourse("data", "convert", "a.jsonl", "out.jsonl", "--to", "sharegpt", cwd=tmp_path)
    assert p.returncode == 1
    rows, bad = ([json.loads(l) for l in (tmp_path/f).read_text().splitlines()] for f in ("out.jsonl", "out.rejected.jsonl"))
    assert len(rows) == 2 and len(bad) == 1 and json.loads(bad[0]["raw"]) == json.loads(BAD)
    assert [t["from"] for t in rows[0]["conversations"]] == ["human", "gpt"]


def test_data_convert_back_and_forth_is_exit_0_and_the_same_rows(tmp_path):
    (tmp_path/"a.jsonl").write_text(GOOD)
    for a, b, to in (("a.jsonl", "b.parquet", "messages"), ("b.parquet", "c.csv", "alpaca")):
        p = ftcourse("data", "convert", a, b, "--to", to, cwd=tmp_path)
        assert p.returncode == 0, p.stdout + p.stderr
    assert ftcourse("data", "convert", "c.csv", "d.jsonl", "--to", "alpaca", cwd=tmp_path).returncode == 0
    row = json.loads((tmp_path/"d.jsonl").read_text())
    assert {k: v for k, v in row.items() if v} == json.loads(GOOD)


@pytest.mark.parametrize("args,says", [
    (["check", "nowhere.jsonl"], "no such file"), (["check", "."], ""), (["check", "a.exe"], ""),
    (["convert", "a.jsonl", "a.jsonl"], "is what is read"), (["convert", "a.jsonl", "b.docx"], ".jsonl"),
    (["convert", "a.jsonl", "a.jsonl/b.jsonl"], "cannot be written")])
def test_data_that_cannot_be_used_is_one_line_and_exit_2(tmp_path, args, says):
    (tmp_path/"a.jsonl").write_text(GOOD); (tmp_path/"a.exe").write_bytes(b"MZ\x00\x01\x02")
    p = ftcourse("data", *args, cwd=tmp_path)
    assert p.returncode == 2 and p.stdout == "" and len(p.stderr.splitlines()) == 1 and p.stderr.startswith("ftcourse: ") and says in p.stderr, p.stderr
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.exe", "a.jsonl"] and (tmp_path/"a.jsonl").read_text() == GOOD


@pytest.mark.parametrize("args", [["data"], ["data", "nonsense"], ["data", "convert", "a.jsonl"], ["data", "check", "a.jsonl", "--format", "nonsense"]])
def test_wrong_usage_of_data_is_exit_2(args):
    p = ftcourse(*args)
    assert p.returncode == 2 and "Traceback" not in p.stderr


def test_what_a_terminal_cannot_show_is_shown_escaped(tmp_path):
    (tmp_path/"a.jsonl").write_text(GOOD + BAD + '{"\\ud800": 1}\n')
    for more in ([], ["--json"]):
        p = ftcourse("data", "check", "a.jsonl", *more, cwd=tmp_path, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
        assert p.returncode == 1 and "Traceback" not in p.stderr and "empty_field" in p.stdout
