"""Where a training step of the quickstart spends its time: the same rows, the same LoRA, six ways, in one run.

Prints seconds per step of 8 rows (median of 4 after a warm-up), real tokens per second and the loss of the first step.
    python benchmarks/quickstart_step.py
"""
import statistics, tempfile, time, warnings

import datasets, torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tqdm import tqdm
from transformers import set_seed
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from ftcourse.batch import Collator, lean_, trained_tokens
from ftcourse.models import load, matmul_rate
from ftcourse.orders import load_orders, messages

warnings.filterwarnings("ignore"); logging.disable_progress_bar(); logging.set_verbosity_error(); datasets.disable_progress_bars()
BATCH, STEPS = 8, 5


def prepare(layout=None, checkpointing=False, autocast=True, dtype="bfloat16"):
    "A trainer that is ready for steps, its batch and the batch's real tokens; `layout` is the `Collator`'s, None leaves TRL's own."
    model, tokenizer = load(device="cpu", dtype=dtype)
    set_seed(0)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    rows = [dict(prompt=c[:-1], completion=c[-1:]) for c in (messages(r["email"], r["order"]) for r in load_orders("train")[:BATCH])]
    args = SFTConfig(output_dir=tempfile.mkdtemp(), max_steps=1, per_device_train_batch_size=BATCH, bf16=autocast, use_cpu=True, report_to="none",
                     gradient_checkpointing=checkpointing, disable_tqdm=True, save_strategy="no", logging_steps=1000)
    if layout: lean_(model)
    t = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
                   data_collator=Collator(tokenizer.pad_token_id, only_labels=True, layout=layout) if layout else None)
    t.create_optimizer()
    if checkpointing: t.model.activation_checkpointing_enable()
    t.accelerator.prepare(t.model)  # autocast; `train()` does this, and the line above, too
    return t, t.data_collator(list(t.train_dataset)), sum(map(len, t.train_dataset["input_ids"]))


def step(t, batch, _):
    "Seconds and loss of one step."
    n, start = trained_tokens(batch), time.perf_counter()
    loss = t.training_step(t.model, dict(batch), num_items_in_batch=n).item()
    t.optimizer.step(); t.optimizer.zero_grad()
    return time.perf_counter() - start, loss


WAYS = {
    "TRL, its defaults (checkpointing on)": dict(checkpointing=True),
    "TRL, checkpointing off": dict(),
    "logits only where there is a label": dict(layout="dynamic"),
    "and rows laid flat, their start once": dict(layout="flat"),
    "the same, without autocast": dict(layout="flat", autocast=False),
    "the same in float32": dict(layout="flat", autocast=False, dtype="float32"),
}

if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads; matrix products: bf16 {matmul_rate('bfloat16')/1e9:.0f} GFLOP/s, fp32 {matmul_rate('float32')/1e9:.0f} GFLOP/s")
    ready = {k: prepare(**v) for k, v in tqdm(WAYS.items(), desc="preparing", leave=False)}
    tokens = next(iter(ready.values()))[2]
    got = {k: [] for k in WAYS}  # taking turns, so that a busy minute of the machine slows all of them
    for _ in tqdm(range(STEPS), desc="steps", leave=False):
        for k, r in ready.items(): got[k].append(step(*r))
    seconds = {k: statistics.median(s for s, _ in v[1:]) for k, v in got.items()}
    print(f"{'':38} {'s/step':>7} {'tokens/s':>9} {'times':>6} {'loss':>7}")
    for k, s in seconds.items(): print(f"{k:38} {s:7.2f} {tokens/s:9.0f} {max(seconds.values())/s:6.1f} {got[k][0][1]:7.4f}")
