"""The benchmark of batches: does the script work, and is what it compares the same training?"""
import importlib.util, json, subprocess, sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT/"benchmarks"/"token_efficiency.py"
spec = importlib.util.spec_from_file_location("token_efficiency", SCRIPT)
te = importlib.util.module_from_spec(spec); spec.loader.exec_module(te)


def test_the_quick_run_prints_a_table_and_writes_a_whole_record(tmp_path):
    p = subprocess.run([sys.executable, SCRIPT, "--quick", "--methods", "a", "d4", "--data", "orders", "--json", tmp_path/"r.json"],
                       capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    record = json.loads((tmp_path/"r.json").read_text())
    a, d = record["rows"]
    assert a["x_vs_a"] == 1 and d["x_vs_a"] == pytest.approx(a["seconds_per_16_rows"]/d["seconds_per_16_rows"])
    assert d["gradient_error_fp32"] < 1e-5 and d["positions"] < record["facts"]["orders"]["tokens"] < a["positions"]
    assert record["provenance"]["matmul_gflops"] > 0 and d["what"] in p.stdout


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    "Loss and gradient of method (a) for each kind of rows."
    te.quiet()
    return {kind: gradient("a", kind, tmp_path_factory.mktemp(kind)) for kind in te.KINDS}


def gradient(method, kind, folder):
    out = te.Worker(method, quick=True).step(kind, 18, "float32", grads=folder/"g.pt")
    return out, torch.load(folder/"g.pt")


@pytest.mark.parametrize("method", [m for m in te.METHODS if m != "a"] + ["packing (bfd), one pack of 512 a batch"])
def test_every_method_computes_the_loss_and_gradient_of_the_padded_one(method, reference, tmp_path):
    for kind in ("orders",) if method in te.TRIED else te.KINDS:
        out, g = gradient(method, kind, tmp_path)
        ref, want = reference[kind]
        assert out["items"] == ref["items"] and out["batches"] > 1
        assert out["loss"] == pytest.approx(ref["loss"], rel=1e-5)
        assert ((g - want).norm()/want.norm()).item() < 1e-5


def test_leaving_out_casts_changes_no_gradient(tmp_path):
    g = {m: te.Worker(m, quick=True).step("orders", 6, "bfloat16", grads=tmp_path/m) and torch.load(tmp_path/m) for m in ("d4", "d5")}
    assert torch.equal(g["d4"], g["d5"]) and g["d4"].any()


def test_the_products_of_a_step_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode
    worker = te.Worker("d3", quick=True)
    worker.trainer("chat", 4, "float32")
    with FlopCounterMode(display=False) as counted: worker.step("chat", 4, "float32")
    base, tokenizer = worker.models["float32"]
    rows = te.features("chat", 4, tokenizer, quick=True)
    want = te.products(base, sum(len(r["input_ids"]) for r in rows), sum(l != -100 for r in rows for l in r["labels"]))
    got = counted.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert .93*want < got <= want  # the first layer's input needs no gradient


def test_attention_of_a_shared_start_is_counted_once():
    base, _ = te.Worker("d3", quick=True).load("float32")
    assert te.attention(base, [6, 4], 3) == 3*4*(36 + 16 - 9)/2*2*32
    assert te.attention(base, [6], 3) == te.attention(base, [6], 0)
