"""What a frozen output layer costs when a batch of prompts is read on the CPU, and what making its input contiguous saves.

`generate` asks for the logits of the last position, a slice with gaps in memory. PyTorch's matmul folds the batch into one product if
one of the operands wants a gradient, and otherwise only if the slice is a view of it; a frozen layer with a slice takes the other way, a
batched product, for which the weight is written out once for each row (`should_fold` in aten/src/ATen/native/LinearAlgebra.cpp).

    python benchmarks/frozen_head.py
"""
import subprocess, sys

WAYS = ["trainable, slice", "frozen, slice", "frozen, contiguous"]
ONE = """
import sys, time, statistics, torch
from ftcourse.models import peak_bytes
way, rows = sys.argv[1], int(sys.argv[2])
head = torch.nn.Linear(576, 49152, bias=False, dtype=torch.bfloat16).requires_grad_(way.startswith("trainable"))
x = torch.randn(rows, 100, 576, dtype=torch.bfloat16)[:, -1:]
x = x.contiguous() if way.endswith("contiguous") else x
seconds, before = [], peak_bytes()
with torch.inference_mode():
    for _ in range(4):
        start = time.perf_counter(); head(x); seconds.append(time.perf_counter() - start)
print(statistics.median(seconds[1:]), peak_bytes() - before)
"""

if __name__ == "__main__":
    print(f"{'rows':>5} {'output layer and its input':28} {'seconds':>9} {'extra MiB':>10}")
    for rows in (1, 8, 60):
        for way in WAYS:  # each in a process of its own, since memory once taken is not given back
            out = subprocess.run([sys.executable, "-c", ONE, way, str(rows)], capture_output=True, text=True, check=True).stdout.split()
            print(f"{rows:5} {way:28} {float(out[0]):9.4f} {float(out[1])/2**20:10.0f}", flush=True)
