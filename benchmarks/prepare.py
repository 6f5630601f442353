"""How fast rows become tokens and labels: ftcourse.chat.prepare beside TRL's own preparation, on this machine.

Both read the same rows from disk, render, encode and label them, and write the result to disk. Each run is a process of its own, with a
tiny model (TRL wants one) and SmolLM2's tokenizer. "orders" are order e-mails, one answer each, TRL's prompt and completion; "chat" are
conversations of one to four answers, all of them trained, for which TRL needs a template with generation markers; both then use that
template. Labels are compared row by row: they must be equal but for the newline behind <|im_end|>, which TRL trains.

"of CPU" is processor time, all threads and processes together; other work on the machine changes it less than seconds. Memory is anonymous memory beyond what the process had before (files that are mapped into memory are not counted). TOKENIZERS_PARALLELISM is
unset, as it is for whoever calls `prepare`; TRL is measured with one process, its default, and with as many as there are cores.

    python benchmarks/prepare.py [--rows 100000] [--rounds 2] [--json FILE]
"""
import argparse, json, os, random, statistics, subprocess, sys, tempfile, threading, time
from datetime import date
from importlib.metadata import version
from pathlib import Path

MARKED = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
          "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
          "{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
          "{% endgeneration %}{{ '\\n' }}{% else %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
RUNS = {"ours": {}, "TRL": dict(num_proc=None), "TRL, all cores": dict(num_proc=os.cpu_count())}


def make(kind, n):
    "Rows as dicts, one at a time."
    from ftcourse.orders import SPLITS, draw, messages
    rng = random.Random(f"prepare/{kind}")
    def order():
        row = draw(rng, "train", rng.choice(SPLITS["train"][1]))
        return messages(row["email"], row["order"])
    for _ in range(n):
        chat = order()
        if kind == "orders": yield dict(prompt=chat[:-1], completion=chat[-1:])
        else: yield dict(messages=chat + [m for _ in range(rng.randrange(4)) for m in order()[1:]])


class Memory:
    "Largest anonymous memory while the block runs, beyond what there was before: this process and its children."
    def now(self):
        import psutil
        me, total = psutil.Process(), 0
        for p in [me, *me.children(recursive=True)]:
            try: total += next(int(l.split()[1]) for l in Path(f"/proc/{p.pid}/status").read_text().splitlines() if l.startswith("RssAnon"))*1024
            except (OSError, StopIteration): pass
        return total
    def __enter__(self):
        self.before = self.peak = self.now()
        self.done = threading.Event()
        def watch():
            while not self.done.wait(.1): self.peak = max(self.peak, self.now())
        self.thread = threading.Thread(target=watch, daemon=True); self.thread.start()
        return self
    def __exit__(self, *_):
        self.done.set(); self.thread.join()
        self.bytes = max(self.peak, self.now()) - self.before


def cpu():
    "Seconds of processor time so far, all threads, and all processes that have ended."
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def worker(name, kind, source, out):
    "One run; prints seconds and bytes as JSON."
    import datasets, torch, transformers
    from transformers import AutoTokenizer
    from ftcourse.models import fetch, set_pad, toy
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars(); datasets.disable_caching()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(fetch())
    set_pad(tokenizer)
    if kind == "chat": tokenizer.chat_template = MARKED
    rows = datasets.load_from_disk(source)
    if name == "ours":
        from ftcourse.chat import prepare
        prepare(rows.select(range(10)), tokenizer, progress=False)  # imports and compiles what is made once
        with Memory() as memory:
            start, work = time.perf_counter(), cpu()
            prepare(rows, tokenizer, turns="all" if kind == "chat" else "last", out=out, progress=False)
            seconds, work = time.perf_counter() - start, cpu() - work
    else:
        from trl import SFTConfig, SFTTrainer
        model, _ = toy()
        with tempfile.TemporaryDirectory() as tmp:
            args = SFTConfig(output_dir=tmp, use_cpu=True, report_to="none", max_length=None, assistant_only_loss=kind == "chat",
                             dataset_num_proc=RUNS[name]["num_proc"], bf16=False)
            trainer = SFTTrainer(model=model, args=args, train_dataset=rows.select(range(10)), processing_class=tokenizer)
            with Memory() as memory:
                start, work = time.perf_counter(), cpu()
                made = trainer._prepare_dataset(rows, tokenizer, args, False, None, "train")
                seconds, work = time.perf_counter() - start, cpu() - work
            made.select_columns(["input_ids", "labels"]).save_to_disk(out)
    print(json.dumps(dict(seconds=seconds, cpu_seconds=work, peak_bytes=memory.bytes)))


def same(ours, theirs):
    "Rows compared; raises unless ids are equal, and labels too but for a newline behind the end token."
    import datasets
    a, b = (datasets.load_from_disk(d).with_format("numpy") for d in (ours, theirs))
    assert len(a) == len(b)
    for x, y in zip(a.iter(batch_size=1000), b.iter(batch_size=1000)):
        for ids, ids2, labels, labels2 in zip(x["input_ids"], y["input_ids"], x["labels"], y["labels"]):
            assert (ids == ids2).all(), "other ids"
            differs = (labels != labels2).nonzero()[0]
            assert all(labels[i] == -100 and labels[i - 1] == 2 for i in differs), "other labels"
    return len(a)


def measure(kind, n, rounds, folder, names=tuple(RUNS)):
    "name -> seconds and bytes of the median round, for one kind of rows."
    import datasets
    datasets.disable_progress_bars()
    source = folder/f"{kind}-{n}"
    if not source.exists(): datasets.Dataset.from_generator(make, gen_kwargs=dict(kind=kind, n=n), cache_dir=str(folder/"cache")).save_to_disk(source)
    took = {name: [] for name in names}
    env = {k: v for k, v in os.environ.items() if k not in ("TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS")}
    for r in range(rounds):
        for name in names if r == 0 else ("ours", "TRL"):  # TRL in many processes: once is enough
            out = folder/f"{kind}-{n}-{r}-{name.replace(', ', '-').replace(' ', '-')}"
            p = subprocess.run([sys.executable, __file__, "--worker", name, kind, str(source), str(out)], capture_output=True, text=True,
                               env={**env, "HF_DATASETS_CACHE": str(folder/f"cache-{r}-{name}"), "HF_DATASETS_DISABLE_CACHING": "1"})
            if p.returncode: raise SystemExit(f"{name}, {kind}: {p.stderr[-2000:]}")
            took[name].append(json.loads(p.stdout.splitlines()[-1]))
    compared = same(folder/f"{kind}-{n}-0-ours", folder/f"{kind}-{n}-0-TRL")
    tokens = sum(map(len, datasets.load_from_disk(folder/f"{kind}-{n}-0-ours").with_format("numpy")["input_ids"]))
    return dict(tokens=tokens, compared=compared, runs={k: dict(seconds=statistics.median(x["seconds"] for x in v), cpu_seconds=statistics.median(x["cpu_seconds"] for x in v), peak_bytes=max(x["peak_bytes"] for x in v),
                                              rounds=[round(x["seconds"], 2) for x in v]) for k, v in took.items()})


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rows", type=int, default=100_000)
    p.add_argument("--rounds", type=int, default=2, help="runs of each, taking turns; the median is printed")
    p.add_argument("--only", choices=["orders", "chat"], help="one kind of rows")
    p.add_argument("--json", type=Path, help="also write the figures to this file")
    p.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker: return worker(*a.worker)
    from ftcourse.models import machine
    start, found = time.perf_counter(), {}
    print(f"{machine()}; {', '.join(f'{k} {version(k)}' for k in ('tokenizers', 'transformers', 'datasets', 'trl'))}; {a.rows:,} rows")
    print(f"{'rows':8} {'':15} {'seconds':>8} {'of CPU':>8} {'rows/s':>8} {'tokens/s':>10} {'peak MB':>8} {'times TRL':>10}")
    with tempfile.TemporaryDirectory(prefix="ftcourse-prepare-") as folder:
        for kind in (a.only,) if a.only else ("orders", "chat"):
            small = measure(kind, a.rows//4, 1, Path(folder), ("ours", "TRL"))
            m = measure(kind, a.rows, a.rounds, Path(folder))
            found[kind] = m = dict(m, quarter={k: v["peak_bytes"] for k, v in small["runs"].items()})
            for name, r in m["runs"].items():
                print(f"{kind:8} {name:15} {r['seconds']:8.1f} {r['cpu_seconds']:8.1f} {a.rows/r['seconds']:8.0f} {m['tokens']/r['seconds']:10.0f} {r['peak_bytes']/1e6:8.0f} "
                      f"{m['runs']['TRL']['seconds']/r['seconds']:10.2f}", flush=True)
            print(f"{'':8} labels of {m['compared']:,} rows compared: equal but for the newline; memory at a quarter of the rows: "
                  + ", ".join(f"{k} {v/1e6:.0f} MB" for k, v in m["quarter"].items()))
    if a.json:
        record = dict(rows=a.rows, found=found, rounds=a.rounds, device="cpu", dtype="none", seed=0, machine=machine(), threads=os.cpu_count(), date=str(date.today()),
                      seconds=round(time.perf_counter() - start, 1), peak_bytes=max(r["peak_bytes"] for m in found.values() for r in m["runs"].values()),
                      command=f"python benchmarks/prepare.py --rows {a.rows} --rounds {a.rounds}",
                      versions={k: version(k) for k in ("ftcourse", "tokenizers", "transformers", "datasets", "trl", "pyarrow")})
        tmp = a.json.with_suffix(".tmp"); tmp.write_text(json.dumps(record, indent=2) + "\n"); os.replace(tmp, a.json)


if __name__ == "__main__": main()
