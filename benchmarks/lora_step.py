"""A LoRA training step, four ways, beside full fine-tuning: seconds, share of the machine's matrix limit, peak memory.

Each cell of the table is a process of its own, since memory once taken is not given back; the ways take turns, so that a machine whose
speed drifts treats them alike. Real SmolLM2 in the type that this machine multiplies fastest, adapters on all linear layers, AdamW, random
tokens, logits for the last 32 positions of each row, no checkpointing. "limit" is the time that the step's multiplications would take at the
rate at which this machine multiplies matrices of the size of its layers (512×576 by 576×1536), measured in the same minute.

    python benchmarks/lora_step.py              # print the table
    python benchmarks/lora_step.py --save       # and write nbs/results/11_lora.json
"""
import argparse, json, statistics, subprocess, sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from ftcourse.models import machine, matmul_rate, pick_dtype

OURS, PEFT, PEFT16, CAST, FULL = "ours", "PEFT", "PEFT, 16-bit adapters", "PEFT, autocast", "full fine-tuning"
WAYS = {"float32": [OURS, PEFT, FULL], "bfloat16": [OURS, PEFT, PEFT16, CAST, FULL]}  # in 16 bits there is more to choose
BATCH, LABELLED = 4, 32
GRID = [(8, 64), (64, 64), (8, 256), (64, 256)]  # (r, tokens a row)
ONE = """
import contextlib, json, sys, time, logging, warnings
warnings.filterwarnings("ignore"); logging.getLogger("bitsandbytes").setLevel("ERROR")
import torch, torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers.utils import logging as hf; hf.disable_progress_bar(); hf.set_verbosity_error()
from ftcourse.lora import add_lora
from ftcourse.models import load, peak_bytes
way, dtype, r, seq, batch, labelled, steps = *sys.argv[1:3], *map(int, sys.argv[3:])
model, _ = load(device="cpu", dtype=dtype)
torch.manual_seed(0)
if way == "ours": add_lora(model, "all-linear", r, r)
elif way.startswith("PEFT"):
    config = LoraConfig(r=r, lora_alpha=r, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, config, autocast_adapter_dtype="16-bit" not in way)
model.train()
params = [p for p in model.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=1e-5)
cast = torch.autocast("cpu", torch.bfloat16) if "autocast" in way else contextlib.nullcontext()
before, seconds, losses = peak_bytes(), [], []
for i in range(steps + 1):
    ids = torch.randint(0, 49000, (batch, seq), generator=torch.Generator().manual_seed(i))
    start = time.perf_counter()
    with cast:
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, -labelled - 1:-1]
        loss = F.cross_entropy(model.lm_head(hidden.reshape(-1, hidden.shape[-1])).float(), ids[:, -labelled:].reshape(-1))
    loss.backward(); opt.step(); opt.zero_grad()
    seconds.append(time.perf_counter() - start); losses.append(loss.item())
print(json.dumps(dict(seconds=seconds[1:], loss=losses[0], peak=peak_bytes(), extra=peak_bytes() - before,
                      trainable=sum(p.numel() for p in params))))
"""


def flops(way, r, seq):
    "Multiplications and additions of one step: forward, gradients of activations, and of what is trained."
    linear, head, layers, d = 106_168_320, 49_152*576, 30, 576
    tokens, ends = BATCH*seq, BATCH*LABELLED
    attention = layers*2*2*tokens*seq*d  # scores and their use, forward; PyTorch computes the full square of a causal mask or half of it
    forward = 2*linear*tokens + 2*head*ends
    adapters = 0 if way == FULL else 2*305_280*r*tokens
    return (3 if way == FULL else 2)*forward + 3*adapters + 3*attention/2


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--save", action="store_true"); ap.add_argument("--steps", type=int, default=3); ap.add_argument("--rounds", type=int, default=2)
    ap.add_argument("--dtype", choices=WAYS, default=pick_dtype("cpu"))
    a = ap.parse_args()
    todo = [(way, r, seq) for r, seq in GRID for _ in range(a.rounds) for way in WAYS[a.dtype] if way != FULL or r == GRID[0][0]]
    got, rates = {}, []
    for key in tqdm(todo, desc="processes"):
        rates.append(matmul_rate(a.dtype))
        out = subprocess.run([sys.executable, "-c", ONE, key[0], a.dtype, *map(str, key[1:]), str(BATCH), str(LABELLED), str(a.steps)], capture_output=True, text=True)
        if out.returncode: raise SystemExit(f"{key}:\n{out.stderr[-2000:]}")
        got.setdefault(key, []).append(json.loads(out.stdout))
    rate = statistics.median(rates)
    print(f"matrix limit {rate/1e9:.0f} GFLOP/s ({a.dtype}; {min(rates)/1e9:.0f} to {max(rates)/1e9:.0f} during the run), {machine()}")
    print(f"{'r':>4} {'tokens':>10} {'way':24} {'s/step':>7} {'of PEFT':>8} {'of limit':>9} {'peak MiB':>9} {'first loss':>10}")
    rows = []
    for (way, r, seq), runs in sorted(got.items(), key=lambda kv: (kv[0][2], kv[0][1], WAYS[a.dtype].index(kv[0][0]))):
        s = statistics.median(t for run in runs for t in run["seconds"])
        row = dict(way=way, r=None if way == FULL else r, seq=seq, batch=BATCH, seconds=s, limit=flops(way, r, seq)/rate,
                   peak_bytes=statistics.median(run["peak"] for run in runs), loss=runs[0]["loss"], trainable=runs[0]["trainable"])
        base = statistics.median(t for run in got[PEFT, r, seq] for t in run["seconds"])
        print(f"{row['r'] or '':>4} {BATCH:3} × {seq:4} {way:24} {s:7.2f} {s/base:8.2f} {row['limit']/s:9.0%} {row['peak_bytes']/2**20:9.0f} {row['loss']:10.4f}", flush=True)
        rows.append(row)
    if a.save:
        import torch
        path = Path(__file__).resolve().parent.parent/"nbs"/"results"/"11_lora.json"
        path.write_text(json.dumps(dict(rows=rows, matmul_rate=rate, device="cpu", dtype=a.dtype, seed=0, threads=torch.get_num_threads(), machine=machine(),
            date=str(date.today()), command="python benchmarks/lora_step.py --save",
            versions={p: version(p) for p in ("ftcourse", "torch", "transformers", "peft")}), indent=1) + "\n")


if __name__ == "__main__": main()
