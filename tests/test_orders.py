"""The task: the same rows everywhere, no leaks, and a score that cannot be talked round."""
import json, random, re
from collections import Counter
from itertools import combinations

import pytest

from ftcourse.orders import FIELDS, SPLITS, draw, grammar, load_orders, make_split, messages, parse_order, score

DATA = {s: load_orders(s) for s in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_what_ships_is_what_the_grammar_draws(split, root):
    want = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in make_split(split))
    assert (root/"ftcourse"/"datasets"/"orders"/f"{split}.jsonl").read_bytes() == want.encode(), "the grammar changed: draw the files again"


def test_sizes_and_levels():
    assert len(DATA["train"]) >= 1000 and len(DATA["test"]) >= 300
    for s, (n, levels) in SPLITS.items():
        counts = Counter(r["level"] for r in DATA[s])
        assert counts == {l: n*levels.count(l)/len(levels) for l in levels}


@pytest.mark.parametrize("a,b", list(combinations(SPLITS, 2)))
def test_no_email_customer_person_or_wording_is_shared(a, b):
    g = grammar()
    skeleton = lambda r: re.sub("|".join(map(re.escape, [r["order"]["customer"], r["order"]["item"]])) + r"|\d", "_", r["email"])
    for key in (lambda r: r["email"], lambda r: r["order"]["customer"], skeleton):
        assert not set(map(key, DATA[a])) & set(map(key, DATA[b]))
    for kind in (g["asks"], g["openings"], g["closings"], g["inline"], g["people"], *g["asides"].values()):
        assert not set(kind[a]) & set(kind[b])
    assert not set(g["firms"][a]) & set(g["firms"][b])


def test_products_of_test_are_known_and_those_of_test_hard_are_new():
    items = {s: {r["order"]["item"] for r in rows} for s, rows in DATA.items()}
    assert items["test"] <= items["train"] and not items["test_hard"] & (items["train"] | items["test"] | items["valid"])


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_can_be_read_off_its_email(split):
    for r in DATA[split]:
        o, text = r["order"], r["email"].lower()
        assert tuple(o) == FIELDS and isinstance(o["quantity"], int)
        assert o["customer"].lower() in text and o["item"] in text and re.search(rf"(?<!\d){o['quantity']}(?!\d)", text)
        y, m, d = o["due"].split("-")
        assert any(n.replace("%Y", y).replace("%m", m).replace("%d", d) in r["email"] for n in grammar()["notations"]), r


def test_a_longer_split_begins_like_the_shorter_one(): assert make_split("train", 50) == make_split("train", 100)[:50]
def test_another_seed_draws_other_rows(): assert not {r["email"] for r in make_split("test", 50, seed=1)} & {r["email"] for r in DATA["test"]}
def test_drawing_leaves_the_global_random_state_alone():
    random.seed(1); before = random.random(); random.seed(1); make_split("valid", 10)
    assert random.random() == before


@pytest.mark.parametrize("call,says", [
    (lambda: load_orders("dev"), "split is 'dev'"), (lambda: load_orders("../secrets"), "use one of"), (lambda: make_split("dev"), "split is 'dev'"),
    (lambda: make_split("train", 0), "n is 0"), (lambda: make_split("train", -3), "n is -3"), (lambda: make_split("train", 1.5), "n is 1.5"), (lambda: make_split("train", float("nan")), "n is nan"), (lambda: draw(random.Random(0), "train", 0), "level is 0"),
    (lambda: score([], []), "0 answers for 0 rows"), (lambda: score(["{}"], DATA["test"][:2]), "1 answers for 2 rows")])
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=re.escape(says)): call()


ROW = dict(level=1, email="", order=dict(customer="Rowan Inn", item="egg cups", quantity=1, due="2026-03-04"))


@pytest.mark.parametrize("answer,exact,valid", [
    (ROW["order"], 1, 1), ({**ROW["order"], "quantity": True}, 0, 1), ({**ROW["order"], "quantity": 1.0}, 0, 1), ({**ROW["order"], "quantity": "1"}, 0, 1),
    ({**ROW["order"], "note": ""}, 0, 1), ({k: ROW["order"][k] for k in FIELDS[:3]}, 0, 1), ({**ROW["order"], "customer": "rowan inn"}, 0, 1),
    ({k: ROW["order"][k] for k in reversed(FIELDS)}, 1, 1), ([ROW["order"]], 0, 0), (None, 0, 0), ("egg cups", 0, 0), (7, 0, 0)])
def test_exact_match_is_exact(answer, exact, valid):
    got = score([json.dumps(answer)], [ROW])
    assert (got["exact"], got["json"], got["hits"]) == (exact, valid, [bool(exact)])


@pytest.mark.parametrize("text", ["", " ", "{", "}{", "NaN", "{'item': 1}", '{"a": 1} and more', "[" * 100_000, '{"a":' * 50_000, "\0", "{}" * 2, None, 3, b"{}", '{"quantity": NaN}', '{"a":' * 900 + "!"])
def test_text_that_is_no_order_is_wrong_and_not_a_crash(text):
    assert parse_order(text) is None
    parse_order(text, strict=False)
    assert score([text], [ROW])["exact"] == 0


def test_chatter_around_the_json_counts_only_when_lenient():
    text = "Sure!\n```json\n" + json.dumps(ROW["order"]) + "\n```"
    assert parse_order(text) is None and parse_order(text, strict=False) == ROW["order"]
    assert parse_order('{oops {"a": 1}', strict=False) == {"a": 1}


def test_messages_carry_the_answer_only_when_asked():
    assert [m["role"] for m in messages("hi")] == ["system", "user"]
    chat = messages("hi", dict(customer="Café"))
    assert [m["role"] for m in chat] == ["system", "user", "assistant"] and chat[-1]["content"] == '{"customer": "Café"}'
