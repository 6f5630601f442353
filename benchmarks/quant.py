"""How fast four-bit weights are made and read back: ftcourse.quant beside bitsandbytes, on this machine.

GB/s of the 16- or 32-bit weights that go in or come out; blocks of 64, NF4. Variants take turns, so that a slow minute of the
machine hits both; the median of the rounds is printed, and each pair is checked to give the same bytes. The last column is what
copying the same weights takes, the most that memory allows. On a machine that does other work as well, set OMP_NUM_THREADS=1: threads
that wait for each other otherwise measure the other work.

    OMP_NUM_THREADS=1 python benchmarks/quant.py [--rounds 9] [--double]
"""
import argparse, statistics, time

import bitsandbytes.functional as bnbF
import torch

from ftcourse.models import machine
from ftcourse.quant import dequantize_4bit, quantize_4bit

SIZES = [(576, 576), (1536, 576), (4096, 4096)]  # q and up of SmolLM2, q of Llama-2-7B


def variants(W, double):
    "name -> function to time, and the check that both give the same bytes."
    q = quantize_4bit(W, double=double)
    packed, state = bnbF.quantize_4bit(W, quant_type="nf4", compress_statistics=double)
    assert torch.equal(q.codes, packed.view(-1)) and torch.equal(q.absmax, state.absmax)
    assert torch.equal(dequantize_4bit(q), bnbF.dequantize_4bit(packed, state))
    return {"quantise ours": lambda: quantize_4bit(W, double=double),
            "quantise bnb": lambda: bnbF.quantize_4bit(W, quant_type="nf4", compress_statistics=double),
            "dequantise ours": lambda: dequantize_4bit(q),
            "dequantise bnb": lambda: bnbF.dequantize_4bit(packed, state),
            "copy": lambda: W.clone()}


def rates(shape, dtype, rounds, double):
    torch.manual_seed(0)
    W = (torch.randn(shape)*.02).to(dtype)
    todo = variants(W, double)
    took = {name: [] for name in todo}
    for _ in range(rounds + 1):
        for name, run in todo.items():
            start = time.perf_counter(); run()
            took[name].append(time.perf_counter() - start)
    return {name: W.numel()*W.element_size()/statistics.median(t[1:])/1e9 for name, t in took.items()}  # the first is a warm-up


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--double", action="store_true", help="quantise the scales as well")
    a = p.parse_args()
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads; GB/s of weights, double={a.double}")
    print(f"{'weights':>12} {'dtype':9} {'quantise ours':>14} {'bnb':>7} {'ratio':>6} {'dequantise ours':>16} {'bnb':>7} {'ratio':>6} {'copy':>7}")
    for shape in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            r = rates(shape, dtype, a.rounds, a.double)
            qo, qb, do, db, c = r.values()
            print(f"{shape[0]:>6}×{shape[1]:<5} {str(dtype)[6:]:9} {qo:14.2f} {qb:7.2f} {qo/qb:6.2f} {do:16.2f} {db:7.2f} {do/db:6.2f} {c:7.2f}", flush=True)
