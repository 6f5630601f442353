"""Lessons 00 to 03."""
import json, re

def trained_text(ids, labels, tok): return tok.decode([i for i, l in zip(ids, labels) if l != -100])

def parsed(a):
    try: return json.loads(a)
    except ValueError: return None

def exact_match(answers, orders): return sum(parsed(a) == o for a, o in zip(answers, orders))/len(orders)
def lora_params(shapes, r): return sum(r*(o + i) for o, i in shapes)
def llama_params(c):
    q, kv = c.hidden_size*c.num_attention_heads*c.head_dim, c.hidden_size*c.num_key_value_heads*c.head_dim
    return c.vocab_size*c.hidden_size + c.num_hidden_layers*(2*q + 2*kv + 3*c.hidden_size*c.intermediate_size + 2*c.hidden_size) + c.hidden_size
def make_labels(ids, mask): return [i if m else -100 for i, m in zip(ids, mask)]
def stored_bytes(a, b): return 2*a + b/2 + b/64
def near_copies(a, b): same = lambda s: re.sub(r"\d", "0", s); known = set(map(same, a)); return [e for e in b if same(e) in known]
def check_mean(fn):
    assert fn([1, 2, 9]) != 12, "sum"
    assert fn([1, 2, 9]) == 4, "not the mean"


RIGHT = dict(check_trained_text=trained_text, check_exact_match=exact_match, check_lora_params=lora_params, check_llama_params=llama_params,
             check_end_survives=make_labels, check_stored_bytes=stored_bytes, check_near_copies=near_copies, check_mean_checker=check_mean)


def parsed_only(answers, orders):
    pairs = [(p, o) for p, o in ((parsed(a), o) for a, o in zip(answers, orders)) if p]
    return sum(p == o for p, o in pairs)/len(pairs)

def unless(ok, *message):  # pytest would add its own text to the message of an `assert`
    if not ok: raise AssertionError(*message)

def weak(fn): unless(fn([1, 2, 3]) == 2, "not the mean")
def strict(fn): unless(fn([1, 2, 9]) == 4, "wrong")
def harsh(fn): unless(False, "no")
def mute(fn): unless(fn([1, 2, 9]) == 4)
def accepts_sum(fn): unless(fn([1, 2, 9]) in (4, 12), "not the mean")


MUTANTS = {  # (checker, what is wrong) -> (wrong answer, what the message must say)
    ("check_trained_text", "all"): (lambda i, l, t: t.decode(i), "whole row"),
    ("check_trained_text", "prompt"): (lambda i, l, t: t.decode([a for a, b in zip(i, l) if b == -100]), "not* trained"),
    ("check_trained_text", "labels raw"): (lambda i, l, t: t.decode(l), "-100 is no token"),
    ("check_trained_text", "shifted left"): (lambda i, l, t: t.decode([a for a, b in zip(i, l[1:]) if b != -100]), "off by one"),
    ("check_trained_text", "shifted right"): (lambda i, l, t: t.decode([a for a, b in zip(i[1:], l) if b != -100]), "off by one"),
    ("check_trained_text", "no end"): (lambda i, l, t: t.decode([a for a, b in zip(i, l) if b != -100 and a != t.eos_token_id]), "end token is trained"),
    ("check_trained_text", "skips special"): (lambda i, l, t: t.decode([a for a, b in zip(i, l) if b != -100], skip_special_tokens=True), "end token is trained"),
    ("check_trained_text", "fixed slice"): (lambda i, l, t: t.decode(i[3:7]), "two answers in a row"),
    ("check_trained_text", "nothing"): (lambda i, l, t: None, "returns nothing"),
    ("check_exact_match", "as text"): (lambda a, o: sum(x == json.dumps(y) for x, y in zip(a, o))/len(o), "compare parsed JSON"),
    ("check_exact_match", "only parsed"): (parsed_only, "divide by the answers that parsed"),
    ("check_exact_match", "crash"): (lambda a, o: sum(json.loads(x) == y for x, y in zip(a, o))/len(o), "not stop the evaluation"),
    ("check_exact_match", "item only"): (lambda a, o: sum((parsed(x) or {}).get("item") == y["item"] for x, y in zip(a, o))/len(o), "every field"),
    ("check_exact_match", "count"): (lambda a, o: sum(parsed(x) == y for x, y in zip(a, o)), "divide by the number of rows"),
    ("check_exact_match", "quantity only"): (lambda a, o: sum((p if isinstance(p := parsed(x), dict) else {}).get("quantity") == y["quantity"] for x, y in zip(a, o))/len(o), "another item"),
    ("check_exact_match", "extra keys"): (lambda a, o: sum(isinstance(p := parsed(x), dict) and all(p.get(k) == v for k, v in y.items()) for x, y in zip(a, o))/len(o), "a key too many"),
    ("check_exact_match", "as strings"): (lambda a, o: sum(isinstance(p := parsed(x), dict) and {k: str(v) for k, v in p.items()} == {k: str(v) for k, v in y.items()} for x, y in zip(a, o))/len(o), "number written as text"),
    ("check_exact_match", "fished"): (lambda a, o: sum(parsed(x[x.find("{"):]) == y for x, y in zip(a, o))/len(o), "words around it"),
    ("check_exact_match", "any order"): (lambda a, o: sum(parsed(x) in o for x in a)/len(o), "own order"),
    ("check_exact_match", "nothing"): (lambda a, o: None, "returns nothing"),
    ("check_lora_params", "W"): (lambda s, r: sum(o*i for o, i in s), "W, which is frozen"),
    ("check_lora_params", "product"): (lambda s, r: sum(r*o*i for o, i in s), "do not multiply"),
    ("check_lora_params", "A only"): (lambda s, r: sum(r*i for o, i in s), "only one of A and B"),
    ("check_lora_params", "B only"): (lambda s, r: sum(r*o for o, i in s), "only one of A and B"),
    ("check_lora_params", "first layer"): (lambda s, r: r*sum(s[0]), "sum over all shapes"),
    ("check_lora_params", "with W"): (lambda s, r: lora_params(s, r) + sum(o*i for o, i in s), "frozen"),
    ("check_llama_params", "untied"): (lambda c: llama_params(c) + c.vocab_size*c.hidden_size, "tied"),
    ("check_llama_params", "no norms"): (lambda c: llama_params(c) - (2*c.num_hidden_layers + 1)*c.hidden_size, "norms are missing"),
    ("check_llama_params", "no last norm"): (lambda c: llama_params(c) - c.hidden_size, "after the last block"),
    ("check_llama_params", "no gqa"): (lambda c: llama_params(c) + c.num_hidden_layers*2*c.hidden_size*c.head_dim*(c.num_attention_heads - c.num_key_value_heads), "fewer heads"),
    ("check_llama_params", "square q"): (lambda c: llama_params(c) + 2*c.num_hidden_layers*c.hidden_size*(c.hidden_size - c.num_attention_heads*c.head_dim), "heads × head_dim"),
    ("check_llama_params", "two mlp"): (lambda c: llama_params(c) - c.num_hidden_layers*c.hidden_size*c.intermediate_size, "three matrices"),
    ("check_llama_params", "no embedding"): (lambda c: llama_params(c) - c.vocab_size*c.hidden_size, "embedding is missing"),
    ("check_llama_params", "one block"): (lambda c: llama_params(type("C", (c,), dict(num_hidden_layers=1))), "expected"),
    ("check_end_survives", "by id"): (lambda i, m: [-100 if x == 2 else x for x in i], "real end token is gone"),
    ("check_end_survives", "unmasked"): (lambda i, m: i, "padding is still trained"),
    ("check_end_survives", "zero"): (lambda i, m: [x*y for x, y in zip(i, m)], "0 is a token"),
    ("check_end_survives", "inverted"): (lambda i, m: [-100 if y else x for x, y in zip(i, m)], "other way round"),
    ("check_end_survives", "cut"): (lambda i, m: [x for x, y in zip(i, m) if y], "one label for each"),
    ("check_end_survives", "first eos from the left"): (lambda i, m: i[:i.index(2) + 1] + [-100]*(len(i) - i.index(2) - 1), "keeps every label"),
    ("check_end_survives", "right padding only"): (lambda i, m: i[:sum(m)] + [-100]*(len(i) - sum(m)), "on the left"),
    ("check_stored_bytes", "bits"): (lambda a, b: 8*stored_bytes(a, b), "bits"),
    ("check_stored_bytes", "no scales"): (lambda a, b: 2*a + b/2, "scales are missing"),
    ("check_stored_bytes", "a byte each"): (lambda a, b: 2*a + b + b/64, "half a byte"),
    ("check_stored_bytes", "one byte for 16"): (lambda a, b: a + b/2 + b/64, "two bytes"),
    ("check_stored_bytes", "fp32 scales"): (lambda a, b: 2*a + b/2 + 4*b/64, "not 32-bit"),
    ("check_near_copies", "exact"): (lambda a, b: [e for e in b if e in a], "only exact copies"),
    ("check_near_copies", "one side"): (lambda a, b: [e for e in b if e in {re.sub(r"\d", "0", x) for x in a}], "nothing found"),
    ("check_near_copies", "by position"): (lambda a, b: [y for x, y in zip(a, b) if re.sub(r"\d", "0", x) == re.sub(r"\d", "0", y)], "nothing found"),
    ("check_near_copies", "of a"): (lambda a, b: a, "e-mails of b"),
    ("check_near_copies", "collapsed"): (lambda a, b: [e for e in b if re.sub(r"\d+", "0", e) in {re.sub(r"\d+", "0", x) for x in a}], "each digit becomes one 0"),
    ("check_near_copies", "normalised"): (lambda a, b: [re.sub(r"\d", "0", e) for e in near_copies(a, b)], "as they are written"),
    ("check_mean_checker", "cannot tell median"): (weak, "accepts the median"),
    ("check_mean_checker", "one message"): (strict, "same message"),
    ("check_mean_checker", "rejects all"): (harsh, "rejects the right answer"),
    ("check_mean_checker", "accepts the sum"): (accepts_sum, "accepts the sum"),
    ("check_mean_checker", "two mistakes only"): (lambda fn: [unless(fn([1, 2, 9]) != 12, "sum"), unless(fn([1, 2, 9]) != 2, "median")], "sum(xs)/2"),
    ("check_mean_checker", "returns"): (lambda fn: fn([1, 2, 9]) == 4, "does it `assert`"),
    ("check_mean_checker", "no message"): (mute, "message"),
}
