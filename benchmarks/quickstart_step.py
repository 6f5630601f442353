"""Where a training step of the quickstart spends its time: the same rows, the same LoRA, four ways, in one run.

Prints seconds per step of 8 rows (median of 3 after one warm-up), real tokens per second and the loss of the step.
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
BATCH, STEPS = 8, 4


class LabelledTrainer(SFTTrainer):
    "As in lesson 00."
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        base, labels = model.get_base_model(), inputs["labels"][:, 1:]
        keep = labels != -100
        hidden = base.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        logits = base.lm_head(hidden[:, :-1][keep]).float()
        n = keep.sum() if num_items_in_batch is None else num_items_in_batch
        return F.cross_entropy(logits, labels[keep], reduction="sum") / n


def measure(cls, checkpointing, autocast):
    model, tokenizer = load(device="cpu")
    set_seed(0)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    rows = [dict(prompt=c[:-1], completion=c[-1:]) for c in (messages(r["email"], r["order"]) for r in load_orders("train")[:64])]
    with tempfile.TemporaryDirectory() as d:
        args = SFTConfig(output_dir=d, max_steps=1, per_device_train_batch_size=BATCH, bf16=autocast, use_cpu=True, report_to="none",
                         gradient_checkpointing=checkpointing, disable_tqdm=True, save_strategy="no", logging_steps=1000)
        t = cls(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        batch = t.data_collator([t.train_dataset[i] for i in range(BATCH)])
        t.create_optimizer(); t.model.train()
        n, seconds, losses = (batch["labels"][:, 1:] != -100).sum(), [], []
        for _ in tqdm(range(STEPS), desc=f"{cls.__name__}", leave=False):
            start = time.perf_counter()
            losses.append(t.training_step(t.model, dict(batch), num_items_in_batch=n).item())
            t.optimizer.step(); t.optimizer.zero_grad()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), int(batch["attention_mask"].sum()), losses[0]


WAYS = {
    "TRL, its defaults (checkpointing on)": (SFTTrainer, True, True),
    "TRL, checkpointing off": (SFTTrainer, False, True),
    "logits only where there is a label": (LabelledTrainer, False, True),
    "the same, without autocast": (LabelledTrainer, False, False),
}

if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads; matrix products: bf16 {matmul_rate('bfloat16')/1e9:.0f} GFLOP/s, fp32 {matmul_rate('float32')/1e9:.0f} GFLOP/s")
    got = {k: measure(*v) for k, v in WAYS.items()}
    slowest = max(s for s, *_ in got.values())
    print(f"{'':38} {'s/step':>7} {'tokens/s':>9} {'times':>6} {'loss':>7}")
    for k, (s, n, loss) in got.items(): print(f"{k:38} {s:7.2f} {n/s:9.0f} {slowest/s:6.1f} {loss:7.4f}")
