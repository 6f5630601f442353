"""A LoRA training step, ours and PEFT's, beside full fine-tuning: seconds, share of the machine's matrix limit, peak memory.

The ways take turns in one process, step by step, so that a machine whose speed drifts treats them alike; what is printed is the fastest step
of each, since everything that disturbs a step makes it slower. Memory is measured in a process for each way, since memory once taken is not
given back. Real SmolLM2 in the type that this machine multiplies fastest, adapters on all linear layers, AdamW, random tokens, logits for the
last 32 positions of each row, no checkpointing. "limit" is the time that the step's products would take at the rate at which this machine
multiplies matrices of the size of its layers (512×576 by 576×1536), measured between the steps.

    python benchmarks/lora_step.py              # print the table
    python benchmarks/lora_step.py --save       # and write nbs/results/11_lora.json
"""
import argparse, contextlib, copy, json, logging, subprocess, sys, time, warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tqdm import tqdm
from transformers.utils import logging as hf_logging

from ftcourse.lora import add_lora
from ftcourse.models import load, machine, matmul_rate, peak_bytes, pick_dtype

OURS, PEFT, PEFT16, CAST, FULL = "ours", "PEFT", "PEFT, 16-bit adapters", "PEFT, autocast", "full fine-tuning"
WAYS = {"float32": [OURS, PEFT, FULL], "bfloat16": [OURS, PEFT, PEFT16, CAST, FULL]}  # in 16 bits there is more to choose
BATCH, LABELLED = 4, 32
GRID = [(8, 64), (64, 64), (8, 256), (64, 256)]  # (r, tokens a row)


def quiet():
    warnings.filterwarnings("ignore"); logging.getLogger("bitsandbytes").setLevel("ERROR")
    hf_logging.disable_progress_bar(); hf_logging.set_verbosity_error()


class Step:
    "A model made ready for one way of training; calling it makes a step and returns its loss."

    def __init__(self, model, way, r):
        torch.manual_seed(0)
        if way == OURS: add_lora(model, "all-linear", r, 1.5*r)
        elif way.startswith(PEFT):
            config = LoraConfig(r=r, lora_alpha=1.5*r, target_modules="all-linear", task_type="CAUSAL_LM")
            get_peft_model(model, config, autocast_adapter_dtype=way != PEFT16)
        else: model.requires_grad_(True)
        params = [p for p in model.train().parameters() if p.requires_grad]
        self.model, self.trainable = model, sum(p.numel() for p in params)
        self.opt = torch.optim.AdamW(params, lr=1e-5)
        self.cast = torch.autocast("cpu", torch.bfloat16) if way == CAST else contextlib.nullcontext()

    def __call__(self, ids):
        with self.cast:
            hidden = self.model.model(ids, use_cache=False).last_hidden_state[:, -LABELLED - 1:-1]
            logits = self.model.lm_head(hidden.reshape(-1, hidden.shape[-1])).float()
            loss = F.cross_entropy(logits, ids[:, -LABELLED:].reshape(-1))
        loss.backward(); self.opt.step(); self.opt.zero_grad()
        return loss.item()


def tokens(i, seq): return torch.randint(0, 49_000, (BATCH, seq), generator=torch.Generator().manual_seed(i))


def memory(way, dtype, r, seq):
    "Peak bytes of a process that makes two steps: printed, for the process that asked."
    quiet()
    model, _ = load(device="cpu", dtype=dtype)
    step = Step(model, way, r)
    losses = [step(tokens(i, seq)) for i in range(2)]
    print(json.dumps(dict(peak_bytes=peak_bytes(), loss=losses[0], trainable=step.trainable)))


def times(ways, dtype, r, seq, rounds, bar):
    "Fastest seconds of a step for each way, in turns, and the fastest matrix products between them."
    model, _ = load(device="cpu", dtype=dtype)
    shared = lambda: copy.deepcopy(model, {id(p): p for p in model.parameters()})  # frozen weights are not copied
    steps = {w: Step(copy.deepcopy(model) if w == FULL else shared(), w, r) for w in ways}
    seconds, rate = {w: [] for w in ways}, 0.
    for i in range(rounds + 1):
        for w, step in steps.items():
            start = time.perf_counter(); step(tokens(i, seq)); seconds[w].append(time.perf_counter() - start)
            rate = max(rate, matmul_rate(dtype)); bar.update()
    return {w: min(s[1:]) for w, s in seconds.items()}, rate


def flops(way, r, seq):
    "Multiplications and additions of one step: forward, gradients of activations, and of what is trained."
    linear, head, layers, d = 106_168_320, 49_152*576, 30, 576
    n, ends = BATCH*seq, BATCH*LABELLED
    forward = 2*linear*n + 2*head*ends
    attention = layers*2*2*n*seq*d/2        # scores and their use; the causal mask leaves half
    adapters = 0 if way == FULL else 2*305_280*r*n
    return (3 if way == FULL else 2)*forward + 3*(adapters + attention)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--save", action="store_true"); ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--dtype", choices=WAYS, default=pick_dtype("cpu"))
    ap.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.memory: return memory(a.memory[0], a.memory[1], *map(int, a.memory[2:]))
    quiet()
    todo = [(r, seq, [w for w in WAYS[a.dtype] if w != FULL or r == GRID[0][0]]) for r, seq in GRID]  # full fine-tuning has no rank
    rows, rates = [], []
    with tqdm(total=sum(len(ways)*(a.rounds + 2) for *_, ways in todo), desc="steps") as bar:
        for r, seq, ways in todo:  # memory first: a process starts out with the peak of the one that started it
            for w in ways:
                out = subprocess.run([sys.executable, __file__, "--memory", w, a.dtype, str(r), str(seq)], capture_output=True, text=True)
                if out.returncode: raise SystemExit(out.stderr[-2000:])
                rows.append(dict(way=w, r=None if w == FULL else r, seq=seq, batch=BATCH, **json.loads(out.stdout.splitlines()[-1])))
                bar.update()
        for r, seq, ways in todo:
            best, rate = times(ways, a.dtype, r, seq, a.rounds, bar)
            rates.append(rate)
            for q in rows:
                if q["seq"] == seq and q["way"] in best and q["r"] in (r, None): q.update(seconds=best[q["way"]], of_peft=best[q["way"]]/best[PEFT])
    for q in rows: q["limit"] = flops(q["way"], q["r"], q["seq"])/max(rates)
    print(f"matrix limit {max(rates)/1e9:.0f} GFLOP/s ({a.dtype}), {machine()}")
    print(f"{'r':>4} {'tokens':>10} {'way':22} {'s/step':>7} {'of PEFT':>8} {'of limit':>9} {'peak MiB':>9} {'first loss':>10}")
    for q in rows:
        print(f"{q['r'] or '':>4} {BATCH:3} × {q['seq']:4} {q['way']:22} {q['seconds']:7.2f} {q['of_peft']:8.2f} {q['limit']/q['seconds']:9.0%} "
              f"{q['peak_bytes']/2**20:9.0f} {q['loss']:10.4f}")
    if a.save:
        path = Path(__file__).resolve().parent.parent/"nbs"/"results"/"11_lora.json"
        path.write_text(json.dumps(dict(rows=rows, matmul_rate=max(rates), device="cpu", dtype=a.dtype, seed=0, threads=torch.get_num_threads(), machine=machine(),
            date=str(date.today()), command="python benchmarks/lora_step.py --save",
            versions={p: version(p) for p in ("ftcourse", "torch", "transformers", "peft")}), indent=1) + "\n")


if __name__ == "__main__": main()
