"""Where a training step of the quickstart spends its time: the same rows, the same LoRA, five ways, in one run.

Prints seconds per step of 8 rows (median of 4 after a warm-up), real tokens per second and the loss of the first step.
    python benchmarks/quickstart_step.py
"""
import statistics, tempfile, time, warnings

import datasets, torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tqdm import tqdm
from transformers import set_seed
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from ftcourse.models import load, matmul_rate
from ftcourse.orders import load_orders, messages

warnings.filterwarnings("ignore"); logging.disable_progress_bar(); logging.set_verbosity_error(); datasets.disable_progress_bars()
BATCH, STEPS = 8, 5


class LabelledTrainer(SFTTrainer):
    "As in lesson 00."
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        base, labels = model.get_base_model(), inputs["labels"][:, 1:]
        keep = labels != -100
        hidden = base.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).last_hidden_state
        logits = base.lm_head(hidden[:, :-1][keep]).float()
        n = keep.sum() if num_items_in_batch is None else num_items_in_batch
        return F.cross_entropy(logits, labels[keep], reduction="sum") / n


def prepare(cls, checkpointing, autocast, dtype="bfloat16"):
    "A trainer that is ready for steps, and its batch."
    model, tokenizer = load(device="cpu", dtype=dtype)
    set_seed(0)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    rows = [dict(prompt=c[:-1], completion=c[-1:]) for c in (messages(r["email"], r["order"]) for r in load_orders("train")[:BATCH])]
    args = SFTConfig(output_dir=tempfile.mkdtemp(), max_steps=1, per_device_train_batch_size=BATCH, bf16=autocast, use_cpu=True, report_to="none",
                     gradient_checkpointing=checkpointing, disable_tqdm=True, save_strategy="no", logging_steps=1000)
    t = cls(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    t.create_optimizer(); t.model.train()
    if checkpointing: t.model.gradient_checkpointing_enable(dict(use_reentrant=False))  # `train()` would do this
    return t, t.data_collator(list(t.train_dataset))


def step(t, batch):
    "Seconds and loss of one step."
    n, start = (batch["labels"][:, 1:] != -100).sum(), time.perf_counter()
    loss = t.training_step(t.model, dict(batch), num_items_in_batch=n).item()
    t.optimizer.step(); t.optimizer.zero_grad()
    return time.perf_counter() - start, loss


WAYS = {
    "TRL, its defaults (checkpointing on)": (SFTTrainer, True, True),
    "TRL, checkpointing off": (SFTTrainer, False, True),
    "logits only where there is a label": (LabelledTrainer, False, True),
    "the same, without autocast": (LabelledTrainer, False, False),
    "the same in float32": (LabelledTrainer, False, False, "float32"),
}

if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads; matrix products: bf16 {matmul_rate('bfloat16')/1e9:.0f} GFLOP/s, fp32 {matmul_rate('float32')/1e9:.0f} GFLOP/s")
    ready = {k: prepare(*v) for k, v in tqdm(WAYS.items(), desc="preparing", leave=False)}
    tokens = int(next(iter(ready.values()))[1]["attention_mask"].sum())
    got = {k: [] for k in WAYS}  # taking turns, so that a busy minute of the machine slows all of them
    for _ in tqdm(range(STEPS), desc="steps", leave=False):
        for k, r in ready.items(): got[k].append(step(*r))
    seconds = {k: statistics.median(s for s, _ in v[1:]) for k, v in got.items()}
    print(f"{'':38} {'s/step':>7} {'tokens/s':>9} {'times':>6} {'loss':>7}")
    for k, s in seconds.items(): print(f"{k:38} {s:7.2f} {tokens/s:9.0f} {max(seconds.values())/s:6.1f} {got[k][0][1]:7.4f}")
