"""Lesson 20."""
import json

NAMES = dict(human="user", gpt="assistant", system="system", observation="tool")


def turns(row, names=NAMES, system=True, error=ValueError, first=True):
    out = []
    if system and row.get("system"): out.append({"role": "system", "content": row["system"]})
    for t in row["conversations"]:
        if t["from"] not in names: raise error(t["from"])
        out.append({"role": names[t["from"]], "content": t["value"]})
    return out if first else out[1:] + out[:1] if row.get("system") else out


class Guess(dict):
    def __missing__(self, k): return "user"
    def __contains__(self, k): return True


def by_position(row): return [{"role": ("user", "assistant")[i % 2], "content": t["value"]} for i, t in enumerate(row["conversations"])]
def in_place(row):
    for t in row["conversations"]: t["role"], t["content"] = NAMES[t.pop("from")], t.pop("value")
    return row["conversations"]
def always_system(row): return [{"role": "system", "content": row.get("system")}]*("system" in row) + turns(row, system=False)


PLAIN, FULL = "### Instruction:\n{instruction}\n\n### Response:\n", "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
def prompt(row, has=lambda row: (row.get("input") or "").strip()): return (FULL if has(row) else PLAIN).format_map(row)
def prompt_strips(row):
    text = (row.get("input") or "").strip()
    return FULL.format(instruction=row["instruction"], input=text) if text else PLAIN.format_map(row)
def prompt_twice(row):
    more = row.get("input")
    text = "### Instruction:\n" + row["instruction"] + ("\n\n### Input:\n" + more if (more or "").strip() else "") + "\n\n### Response:\n"
    return text.format(x="", y="")


def load(text, cut=lambda t: t.split("\n"), first=1, keep=(dict,), blank=True, counted=True, whole=False, swallow=False):
    rows, bad, n = [], [], first - 1
    for line in cut(text):
        n += 1 if counted or line.strip() else 0
        line = line.rstrip("\r")
        if blank and not line.strip(): continue
        try: row = json.loads(line)
        except ValueError:
            if whole: raise
            if not swallow: bad.append((n, line))
            continue
        if isinstance(row, keep): rows.append(row)
        else: bad.append((n, line))
    return rows, bad


def flipped(rows, odd=1, at=slice(None), who=("human",)):
    return [n for n, r in enumerate(rows) if any(t["from"] in who for t in r["conversations"][odd::2][at])]


RIGHT = dict(check_sharegpt_turns=turns, check_alpaca_prompt=prompt, check_nothing_lost=load, check_flipped_rows=flipped)

MUTANTS = {
    ("check_sharegpt_turns", "nothing"): (lambda row: None, "returns nothing"),
    ("check_sharegpt_turns", "old keys"): (lambda row: row["conversations"], "role and content"),
    ("check_sharegpt_turns", "old names"): (lambda row: turns(row, {k: k for k in NAMES}), "called user and assistant"),
    ("check_sharegpt_turns", "in place"): (in_place, "the row was changed"),
    ("check_sharegpt_turns", "by position"): (by_position, "not in its position"),
    ("check_sharegpt_turns", "observation is the user"): (lambda row: turns(row, {**NAMES, "observation": "user"}), "what a tool said"),
    ("check_sharegpt_turns", "no field system"): (lambda row: turns(row, system=False), "field system of the row is lost"),
    ("check_sharegpt_turns", "system last"): (lambda row: turns(row, first=False), "comes first"),
    ("check_sharegpt_turns", "empty system"): (always_system, "there is no system prompt"),
    ("check_sharegpt_turns", "KeyError"): (lambda row: turns(row, error=KeyError), "where ValueError was asked for"),
    ("check_sharegpt_turns", "guesses"): (lambda row: turns(row, Guess(NAMES)), "do not guess"),
    ("check_alpaca_prompt", "as it was"): (lambda row: (PLAIN if row["input"] == "" else FULL).format_map(row), "an input called None"),
    ("check_alpaca_prompt", "never"): (lambda row: PLAIN.format_map(row), "the input is gone"),
    ("check_alpaca_prompt", "always"): (lambda row: FULL.format_map({"input": "", **row}), "needs no part of its own"),
    ("check_alpaca_prompt", "not missing"): (lambda row: (FULL if row["input"] and row["input"].strip() else PLAIN).format_map(row), "need not have the field"),
    ("check_alpaca_prompt", "blanks shown"): (lambda row: prompt(row, lambda r: r.get("input")), "blanks are nothing to show"),
    ("check_alpaca_prompt", "zero"): (lambda row: prompt(row, lambda r: (r.get("input") or "").strip(" \n0")), "'0' is one"),
    ("check_alpaca_prompt", "strips"): (prompt_strips, "strip to decide"),
    ("check_alpaca_prompt", "formats twice"): (prompt_twice, "braces in the data"),
    ("check_alpaca_prompt", "nothing"): (lambda row: None, "returns nothing"),
    ("check_nothing_lost", "nothing"): (lambda text: None, "returns nothing"),
    ("check_nothing_lost", "rows only"): (lambda text: load(text)[0], "return two things"),
    ("check_nothing_lost", "stops"): (lambda text: load(text, whole=True), "one broken line stops all"),
    ("check_nothing_lost", "swallows"): (lambda text: load(text, swallow=True), "is in neither list"),
    ("check_nothing_lost", "from zero"): (lambda text: load(text, first=0), "counts lines from 1"),
    ("check_nothing_lost", "blank lines are rows"): (lambda text: load(text.rstrip("\n"), blank=False) if text.strip() else ([], []), "blank lines are no rows"),
    ("check_nothing_lost", "blank lines uncounted"): (lambda text: load(text, counted=False), "blank lines count as lines"),
    ("check_nothing_lost", "any value"): (lambda text: load(text, keep=object), "JSON and no objects"),
    ("check_nothing_lost", "lists too"): (lambda text: load(text, keep=(dict, list)), "JSON and no objects"),
    ("check_nothing_lost", "splitlines"): (lambda text: load(text, cut=str.splitlines), "cut at \\n and nowhere else"),
    ("check_nothing_lost", "needs a row"): (lambda text: load(text) if text else None, "no text, no rows"),
    ("check_flipped_rows", "nothing"): (lambda rows: None, "returns nothing"),
    ("check_flipped_rows", "the rows"): (lambda rows: [rows[n] for n in flipped(rows)], "not the rows"),
    ("check_flipped_rows", "even positions"): (lambda rows: flipped(rows, odd=0), "positions 1, 3, 5"),
    ("check_flipped_rows", "from one"): (lambda rows: [n + 1 for n in flipped(rows)], "counted from 0"),
    ("check_flipped_rows", "system first"): (lambda rows: [n for n, r in enumerate(rows) if r["conversations"][0]["from"] == "system"], "greeting at the beginning"),
    ("check_flipped_rows", "not human first"): (lambda rows: [n for n, r in enumerate(rows) if r["conversations"][0]["from"] != "human"], "look at every turn"),
    ("check_flipped_rows", "any that does not alternate"): (lambda rows: [n for n, r in enumerate(rows) if any(t["from"] != ("human", "gpt")[i % 2] for i, t in enumerate(r["conversations"]))], "nothing of the human is learnt"),
    ("check_flipped_rows", "odd length"): (lambda rows: [n for n, r in enumerate(rows) if len(r["conversations"]) % 2], "trains nothing of it"),
    ("check_flipped_rows", "first answer only"): (lambda rows: flipped(rows, at=slice(0, 1)), "look at every turn"),
    ("check_flipped_rows", "system prompts put right"): (lambda rows: [n for n, r in enumerate(rows) if any(t["from"] == "human" and (i < 2 or r["conversations"][i - 1]["from"] != "system") for i, t in enumerate(r["conversations"]) if i % 2)], "system turn in the middle"),
}
