"""Lesson 21."""
import re


def ngrams(text, n): words = text.split(); return {tuple(words[i:i + n]) for i in range(len(words) - n + 1)}
def word_jaccard(a, b, n): a, b = ngrams(a, n), ngrams(b, n); return len(a & b)/len(a | b)

def bands(threshold, perm, recall):
    for rows in range(perm, 0, -1):
        if 1 - (1 - threshold**rows)**(perm//rows) >= recall: return perm//rows, rows

def safe_split(mails, share, same=lambda t: " ".join(t.lower().split()), who=True):
    groups = []
    for i, (customer, text) in enumerate(mails):
        keys = {("text", same(text))} | ({("who", customer)} if who else set())
        members = {i}
        for g in [g for g in groups if g[0] & keys]: keys |= g[0]; members |= g[1]; groups.remove(g)
        groups.append((keys, members))
    test = []
    for _, members in sorted(groups, key=lambda g: len(g[1])):
        if len(test) + len(members) <= max(1, share*len(mails)): test += members
    return [i for i in range(len(mails)) if i not in test], sorted(test)

def luhn(d): return sum(sum(divmod(int(c)*2, 10)) if k % 2 else int(c) for k, c in enumerate(d[::-1])) % 10 == 0
SHAPE = r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"
def find_cards(text, ok=luhn, shape=SHAPE):
    return [d for m in re.findall(shape, text) if ok(d := re.sub(r"\D", "", m))]


RIGHT = dict(check_word_jaccard=word_jaccard, check_bands=bands, check_safe_split=safe_split, check_find_cards=find_cards)


def in_lists(a, b, n):
    a, b = ([tuple(t.split()[i:i + n]) for i in range(len(t.split()) - n + 1)] for t in (a, b))
    shared = len(set(a) & set(b))
    return shared/(len(a) + len(b) - shared)
def short(a, b, n):
    a, b = (set(zip(t.split(), t.split()[1:])) for t in (a, b))
    return len(a & b)/len(a | b)
def cut(n): return lambda mails, share: (list(range(n(mails, share))), list(range(n(mails, share), len(mails))))
def pairs_only(mails, share):
    "Joins customers, and rows that equal the first of a customer, but not chains."
    where = {}
    for i, (who, text) in enumerate(mails): where.setdefault(who, []).append(i)
    if len(mails) == 8: return [0, 1, 2, 3, 5], [4, 6, 7]
    return safe_split(mails, share)
def luhn_left(d): return sum(sum(divmod(int(c)*2, 10)) if k % 2 == 0 else int(c) for k, c in enumerate(d)) % 10 == 0


MUTANTS = {  # (checker, what is wrong) -> (wrong answer, what the message must say)
    ("check_word_jaccard", "nothing"): (lambda a, b, n: None, "returns nothing"),
    ("check_word_jaccard", "count"): (lambda a, b, n: len(ngrams(a, n) & ngrams(b, n)), "counts what they share"),
    ("check_word_jaccard", "sum"): (lambda a, b, n: len(ngrams(a, n) & ngrams(b, n))/(len(ngrams(a, n)) + len(ngrams(b, n))), "use the union"),
    ("check_word_jaccard", "one"): (lambda a, b, n: len(ngrams(a, n) & ngrams(b, n))/len(ngrams(a, n)), "of one text"),
    ("check_word_jaccard", "words"): (lambda a, b, n: word_jaccard(a, b, 1), "single words"),
    ("check_word_jaccard", "percent"): (lambda a, b, n: 100*word_jaccard(a, b, n), "over 1"),
    ("check_word_jaccard", "letters"): (lambda a, b, n: word_jaccard(" ".join(a), " ".join(b), n), "expected 0.667"),
    ("check_word_jaccard", "lists"): (in_lists, "a *set* has"),
    ("check_word_jaccard", "pairs"): (lambda a, b, n: short(a, b, n) if n == 2 else 0., "is the last n-gram there"),
    ("check_bands", "nothing"): (lambda t, p, r: None, "returns nothing"),
    ("check_bands", "one"): (lambda t, p, r: 6, "return two numbers"),
    ("check_bands", "too many"): (lambda t, p, r: (p, 6), "there are 128"),
    ("check_bands", "swapped"): (lambda t, p, r: bands(t, p, r)[::-1], "swapped"),
    ("check_bands", "long"): (lambda t, p, r: (9, 13), "take shorter bands"),
    ("check_bands", "singles"): (lambda t, p, r: (p, 1), "*longest* band"),
    ("check_bands", "few"): (lambda t, p, r: (25, 5), "expected 21 bands of 6"),
    ("check_bands", "fixed"): (lambda t, p, r: (21, 6), "right for 128 numbers only"),
    ("check_safe_split", "nothing"): (lambda m, s: None, "returns nothing"),
    ("check_safe_split", "one"): (lambda m, s: [0], "return two lists"),
    ("check_safe_split", "mails"): (lambda m, s: (m[3:], m[:3]), "numbers of the mails"),
    ("check_safe_split", "twice"): (lambda m, s: (list(range(12)), [0]), "both sides, or twice"),
    ("check_safe_split", "lost"): (lambda m, s: ([0], [11]), "are gone"),
    ("check_safe_split", "no test"): (lambda m, s: (list(range(12)), []), "test set is empty"),
    ("check_safe_split", "no train"): (lambda m, s: ([], list(range(12))), "training set is empty"),
    ("check_safe_split", "cut"): (cut(lambda m, s: len(m) - 1), "customer H is on both sides"),
    ("check_safe_split", "customers"): (lambda m, s: (list(range(6)), list(range(6, 12))), "capitals and spaces"),
    ("check_safe_split", "texts only"): (lambda m, s: safe_split(m, s, who=False), "is on both sides"),
    ("check_safe_split", "exact"): (lambda m, s: (list(range(2)) + list(range(4, 12)), [2, 3]), "capitals and spaces"),
    ("check_safe_split", "size"): (lambda m, s: ([7], [i for i in range(12) if i != 7]), "a quarter of 12"),
    ("check_safe_split", "chain"): (pairs_only, "join what is connected"),
    ("check_find_cards", "nothing"): (lambda t: None, "returns nothing"),
    ("check_find_cards", "text"): (lambda t: "".join(find_cards(t)), "return a list"),
    ("check_find_cards", "none"): (lambda t: [], "expected ['4111111111111111']"),
    ("check_find_cards", "no groups"): (lambda t: find_cards(t, shape=r"(?<!\d)\d{13,19}(?!\d)"), "one space or hyphen"),
    ("check_find_cards", "spaces kept"): (lambda t: re.findall(SHAPE, t), "digits only"),
    ("check_find_cards", "no Luhn"): (lambda t: find_cards(t, ok=lambda d: True), "apply Luhn"),
    ("check_find_cards", "from the left"): (lambda t: find_cards(t, ok=luhn_left), "*from the right*"),
    ("check_find_cards", "any length"): (lambda t: find_cards(t, shape=r"(?<!\d)\d(?:[ -]?\d)+(?!\d)"), "eleven digits"),
    ("check_find_cards", "inside"): (lambda t: find_cards(t, shape=r"\d(?:[ -]?\d){12,18}"), "inside a longer number"),
}
