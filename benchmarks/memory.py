"""Predicted against measured peak of a training step of SmolLM2, each job in a process of its own.

The peak is that of tensors alive, from PyTorch's allocator; the growth of the process (resident set) stands beside it. Also predicted and
measured: seconds of a step, from the FLOPs and the rate of a matrix product measured in the same process.
    python benchmarks/memory.py            # all rows; prints the table and writes nbs/results/13_budget.json
    python benchmarks/memory.py 3 7        # these rows only; the others stay as they are in the record
"""
import contextlib, datetime, json, subprocess, sys, time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from ftcourse.budget import Job, arch, plan, step_peak
from ftcourse.models import load, load_config, machine, matmul_rate, peak_bytes

RECORD = Path(__file__).resolve().parent.parent/"nbs"/"results"/"13_budget.json"
F32 = dict(dtype="float32", device="cpu")
B16 = dict(dtype="bfloat16", device="cpu")
JOBS = [
    Job("full", 128, 2, **F32),
    Job("full", 512, 1, **F32),
    Job("full", 256, 4, checkpointing=True, **F32),
    Job("full", 512, 2, labelled=32, **F32),
    Job("full", 32, 1, **B16),
    Job("full", 32, 1, dtype="mixed", device="cpu"),
    Job("full", 128, 2, optimizer="sgd", accumulation=2, **F32),
    Job("full", 128, 2, optimizer="adamw-8bit", **F32),
    Job("layers", 256, 2, last=4, **F32),
    Job("lora", 512, 1, **F32),
    Job("lora", 512, 2, checkpointing=True, **F32),
    Job("lora", 512, 1, labelled=32, **F32),
    Job("lora", 512, 1, chunks=8, **F32),
    Job("lora", 256, 2, padded=True, **F32),
    Job("lora", 32, 2, **B16),
    Job("lora", 32, 2, adapter_dtype="bfloat16", target_modules=("q_proj", "v_proj"), **B16),
    Job("lora", 32, 1, dtype="mixed", device="cpu"),
    Job("qlora", 32, 2, **B16),
    Job("qlora", 256, 2, **F32),
    Job("qlora", 256, 2, checkpointing=True, labelled=32, **F32),
    Job("prefix", 256, 2, **F32),
    Job("prompt", 256, 2, **F32),
    Job("generate", 512, 8, **F32),
]


def prepare(model, job):
    "The model ready for the job, as people set it up with PEFT and transformers: (model, its base)."
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
    base, task = model.train(), dict(task_type="CAUSAL_LM")
    if job.method in ("lora", "qlora"):
        targets = job.target_modules if isinstance(job.target_modules, str) else list(job.target_modules)
        model = get_peft_model(base, LoraConfig(r=job.r, target_modules=targets, **task), autocast_adapter_dtype=job.adapter_dtype == "float32")
    if job.method == "prefix": model = get_peft_model(base, PrefixTuningConfig(num_virtual_tokens=job.virtual, **task))
    if job.method == "prompt": model = get_peft_model(base, PromptTuningConfig(num_virtual_tokens=job.virtual, **task))
    if job.method == "layers":
        base.requires_grad_(False)
        for part in (*base.model.layers[-job.last:], base.model.norm): part.requires_grad_(True)
    if job.checkpointing:
        base.gradient_checkpointing_enable(dict(use_reentrant=False))
        if job.method != "full": base.enable_input_require_grads()
    return model, base


def chunked(head, hidden, labels, chunks):
    "Mean loss over pieces of the positions; each piece's logits are computed again in the backward pass."
    import torch.nn.functional as F
    from torch.utils.checkpoint import checkpoint
    def piece(h, l): return F.cross_entropy(head(h).float(), l, reduction="sum")
    parts = zip(hidden.chunk(chunks), labels.chunk(chunks))
    return sum(checkpoint(piece, h, l, use_reentrant=False) for h, l in parts)/len(labels)


def stepper(model, base, job, optimizer=None):
    "A function that makes one step of the job, and the optimizer."
    import torch
    import torch.nn.functional as F
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(10, min(1000, base.config.vocab_size), (job.batch, job.seq), generator=g)
    mask, labels = torch.ones_like(ids), ids.clone()
    if job.padded: mask[0, -3:] = 0
    if job.labelled: labels[:, :-job.labelled] = -100
    if job.method == "generate":
        base.eval()
        return lambda: base.generate(ids[:, :-8], attention_mask=mask[:, :-8], max_new_tokens=8, min_new_tokens=8, do_sample=False), None
    trained = [p for p in model.parameters() if p.requires_grad]
    if optimizer is not None: pass
    elif job.optimizer == "adamw-8bit":
        import bitsandbytes
        optimizer = bitsandbytes.optim.AdamW8bit(trained, lr=1e-5)
    else: optimizer = torch.optim.SGD(trained, lr=1e-5) if job.optimizer == "sgd" else torch.optim.AdamW(trained, lr=1e-5, fused=True)
    def loss():
        if job.labelled is None and job.chunks == 1:
            return model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=job.method == "prefix").loss
        hidden = base.model(ids, mask, use_cache=False).last_hidden_state
        if job.chunks > 1: return chunked(base.lm_head, hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), job.chunks)
        keep = labels[:, 1:] != -100
        return F.cross_entropy(base.lm_head(hidden[:, :-1][keep]).float(), labels[:, 1:][keep])
    def step():
        for _ in range(job.accumulation):
            with torch.autocast("cpu", torch.bfloat16) if job.dtype == "mixed" else contextlib.nullcontext(): value = loss()
            value.backward()
            del value
        optimizer.step(); optimizer.zero_grad()
    return step, optimizer


def static_bytes(model, optimizer):
    "Bytes of weights, adapters, scales of four-bit weights, and optimizer states."
    tensors = [*model.parameters(), *model.buffers()]
    for q in (q for p in model.parameters() if (q := getattr(p, "quant_state", None)) is not None):
        tensors += [q.absmax, q.code, *((q.offset, q.state2.absmax, q.state2.code) if q.nested else ())]
    if optimizer: tensors += [v for s in optimizer.state.values() for v in s.values() if hasattr(v, "untyped_storage")]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def measure(model, job):
    "Bytes at the fullest moment of a step of the job that is not the first, and its seconds."
    model, base = prepare(model, job)
    first, optimizer = stepper(model, base, replace(job, seq=16, batch=1, labelled=None, chunks=1, accumulation=1, padded=False))
    first()  # a short one, for the states of the optimizer
    step, _ = stepper(model, base, job, optimizer)
    there, start = static_bytes(model, optimizer), time.perf_counter()
    return there + step_peak(step), time.perf_counter() - start


def one(job):
    "A row of the record."
    import logging, warnings
    import bitsandbytes, peft, torch  # noqa: F401  (so that their libraries are in the base line)
    from transformers.utils import logging as hf
    warnings.filterwarnings("ignore"); hf.disable_progress_bar(); hf.set_verbosity_error(); logging.disable(logging.ERROR)
    rate, before = matmul_rate("float32" if job.dtype == "float32" else "bfloat16"), peak_bytes()
    model, _ = load(device="cpu", dtype="bfloat16" if job.dtype == "bfloat16" else "float32", four_bit=job.method == "qlora")
    measured, seconds = measure(model, job)
    p = plan(arch(load_config("smollm2-135m")), job)
    return dict(job=asdict(job), predicted=p.total, measured=measured, process=peak_bytes() - before, moment=p.moment, flops=p.flops,
                rate=rate, threads=torch.get_num_threads(), predicted_seconds=p.flops/rate, seconds=seconds, date=str(datetime.date.today()))


def line(row):
    "A row for people."
    j = row["job"]
    ways = [j["dtype"], f"{j['seq']}×{j['batch']}"] + [w for w, on in (("checkpointing", j["checkpointing"]), (j["optimizer"], j["optimizer"] != "adamw"),
            (f"accumulation {j['accumulation']}", j["accumulation"] > 1), (f"{j['labelled']} labelled", j["labelled"]), (f"{j['chunks']} chunks", j["chunks"] > 1),
            ("padded", j["padded"]), ("q, v", j["target_modules"] != "all-linear"), ("16-bit adapters", j["adapter_dtype"] == "bfloat16")) if on]
    return (f"{j['method']:9}{', '.join(ways):44} {row['predicted']/1e6:9.0f} {row['measured']/1e6:9.0f} {row['predicted']/row['measured'] - 1:+7.1%}"
            f" {row['process']/1e6:9.0f} {row['moment']:12} {row['predicted_seconds']:7.1f} {row['seconds']:7.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(JOBS[int(sys.argv[2])])))
        raise SystemExit
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    rows = {json.dumps(r["job"], sort_keys=True): r for r in record.get("rows", [])}
    print(f"{'':53} {'predicted':>9} {'measured':>9} {'':7} {'process':>9} {'moment':12} {'seconds':>15}\n{'':53} {'MB':>9} {'MB':>9} {'':7} {'MB':>9} {'':12} {'pred.':>7} {'meas.':>7}")
    for i in map(int, sys.argv[1:] or range(len(JOBS))):
        out = subprocess.run([sys.executable, __file__, "--one", str(i)], capture_output=True, text=True)
        if out.returncode: raise SystemExit(f"row {i}: {out.stderr[-2000:]}")
        row = json.loads(out.stdout.splitlines()[-1])
        rows[json.dumps(row["job"], sort_keys=True)] = row
        print(line(row), flush=True)
    keys = [json.dumps({**asdict(j), "target_modules": list(t) if isinstance(t := j.target_modules, tuple) else t}, sort_keys=True) for j in JOBS]
    record = dict(model="SmolLM2-135M-Instruct", device="cpu", machine=machine(), seed=0, command="python benchmarks/memory.py",
                  versions={k: version(k) for k in ("torch", "transformers", "peft", "bitsandbytes")},
                  date=str(datetime.date.today()), rows=[rows[k] for k in keys if k in rows])
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
