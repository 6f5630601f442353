"""Lesson 10."""
import torch


def energy_share(S, r): return sum(s*s for s in S[:r])/sum(s*s for s in S)
def smallest_rank(S, share): return next((r for r in range(1, len(S)) if energy_share(S, r) >= share), len(S))
def saving_rank(d_out, d_in): return (d_out*d_in - 1)//(d_out + d_in)
def add_updates(B1, A1, B2, A2): return torch.cat([B1, B2], dim=1), torch.cat([A1, A2], dim=0)


RIGHT = dict(check_energy_share=energy_share, check_smallest_rank=smallest_rank, check_saving_rank=saving_rank, check_add_updates=add_updates)


def by_sum(S, share): return next(r for r in range(1, len(S) + 1) if sum(S[:r])/sum(S) >= share)
def in_place(B1, A1, B2, A2):
    out = add_updates(B1, A1, B2, A2)
    B1 *= 2
    return out


def padded(B1, A1, B2, A2):
    B, A = add_updates(B1, A1, B2, A2)
    return torch.cat([B, 0*B], dim=1), torch.cat([A, 0*A], dim=0)


MUTANTS = {
    ("check_energy_share", "not squared"): (lambda S, r: sum(S[:r])/sum(S), "energy is their squares"),
    ("check_energy_share", "not a share"): (lambda S, r: sum(s*s for s in S[:r]), "divide by the energy of all"),
    ("check_energy_share", "the rest"): (lambda S, r: 1 - energy_share(S, r), "take the first r"),
    ("check_energy_share", "one direction"): (lambda S, r: S[r - 1]**2/sum(s*s for s in S), "second direction alone"),
    ("check_energy_share", "root"): (lambda S, r: energy_share(S, r)**.5, "leave out the root"),
    ("check_energy_share", "one too many"): (lambda S, r: energy_share(S, r + 1), "not three"),
    ("check_energy_share", "one too few"): (lambda S, r: energy_share(S, r - 1), "not one"),
    ("check_energy_share", "squared last"): (lambda S, r: (sum(S[:r])/sum(S))**2, "square each value"),
    ("check_energy_share", "nothing"): (lambda S, r: None, "returns nothing"),
    ("check_smallest_rank", "from zero"): (lambda S, share: smallest_rank(S, share) - 1, "counts from 0 need one more"),
    ("check_smallest_rank", "sums"): (by_sum, "compare squares"),
    ("check_smallest_rank", "one more"): (lambda S, share: smallest_rank(S, share) + 1, "rank 3 is enough"),
    ("check_smallest_rank", "strict"): (lambda S, share: next((r for r in range(1, len(S)) if energy_share(S, r) > share), len(S)), "exactly half"),
    ("check_smallest_rank", "not the first"): (lambda S, share: 3, "exactly half"),
    ("check_smallest_rank", "nothing"): (lambda S, share: None, "returns nothing"),
    ("check_saving_rank", "largest rank"): (lambda o, i: min(o, i), "largest rank W can have"),
    ("check_saving_rank", "half a side"): (lambda o, i: min(o, i)//2, "squares only"),
    ("check_saving_rank", "equal"): (lambda o, i: o*i//(o + i), "as many as W"),
    ("check_saving_rank", "one less always"): (lambda o, i: o*i//(o + i) - 1, "for 7 × 100"),
    ("check_saving_rank", "float"): (lambda o, i: (o*i - 1)//(o + i) if (o, i) == (30, 20) else o*i/(o + i), "whole number"),
    ("check_saving_rank", "one factor"): (lambda o, i: o*i//i, "together r·(d_out + d_in)"),
    ("check_saving_rank", "nothing"): (lambda o, i: None, "returns nothing"),
    ("check_add_updates", "factor by factor"): (lambda B1, A1, B2, A2: (B1 + B2, A1 + A2), "also holds B1 @ A2"),
    ("check_add_updates", "crossed"): (lambda B1, A1, B2, A2: (torch.cat([B1, B2], 1), torch.cat([A2, A1], 0)), "B1 met A2"),
    ("check_add_updates", "wrong side"): (lambda B1, A1, B2, A2: (torch.cat([B1, B2], 0), torch.cat([A1, A2], 1)), "[7, 5]"),
    ("check_add_updates", "one matrix"): (lambda B1, A1, B2, A2: B1 @ A1 + B2 @ A2, "lost its low rank"),
    ("check_add_updates", "dense factor"): (lambda B1, A1, B2, A2: (B1 @ A1 + B2 @ A2, torch.eye(5)), "is enough"),
    ("check_add_updates", "padded"): (padded, "is enough"),
    ("check_add_updates", "mean"): (lambda B1, A1, B2, A2: (torch.cat([B1, B2], 1)/2, torch.cat([A1, A2], 0)), "mean of the updates"),
    ("check_add_updates", "first only"): (lambda B1, A1, B2, A2: (B1, A1), "is not B1 @ A1 + B2 @ A2"),
    ("check_add_updates", "in place"): (in_place, "leave them as they are"),
    ("check_add_updates", "nothing"): (lambda B1, A1, B2, A2: None, "returns nothing"),
}
