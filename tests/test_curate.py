"""Lesson 21: nothing is deleted in silence, what is found is really there, and the mistakes that are known stay the only ones."""
import copy, html.parser, random, re, string, subprocess, sys

import pytest
from bs4 import BeautifulSoup
from hypothesis import HealthCheck, example, given, settings, strategies as st

import ftcourse.curate as curate
from ftcourse.curate import (BOILERPLATE, PARTS, PERSONAL, RULES, Curated, Drop, answer_losses, choose_bands, clean, clean_text, clusters, conflicts, dedup_explorer,
                             deduplicate, drop_if, drop_languages, drop_outliers, find_personal, found, jaccard, language, mask_personal, near_pairs, normalise,
                             overlap, quality_report, repeated_lines, robust_z, shingles, split_rows, text_of, undo)
from ftcourse.models import toy
from ftcourse.orders import load_orders, messages
from test_explore import choose, readout
from web import needs_browser

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def say(user, answer="OK", system=None):
    return dict(messages=[*([dict(role="system", content=system)] if system else []), dict(role="user", content=user), dict(role="assistant", content=answer)])


ORDERS = [dict(messages=messages(r["email"], r["order"])) for r in load_orders("train")[:120]]
PIECES = ["Sure! ", "Here is the JSON:\n", "As an AI language model, ", "I hope this helps!", "\n", "\n\n\n", " ", "<b>", "</p>", "<br>", "<script>x", "</script>", "<!--", "-->",
          "&amp;", "&lt;", "b&gt;", "&#39;", "&eacute;", "&amp;amp;", "`", "```", "Ã©", "â€™", "é", "e\u0301", "\u200b", "\u200d", "\u200c", "\ufeff", "\x00", "\r\n", "\u00a0", "\u00ad",
          "a", "x<y and z>1", "10<sup>6</sup>", "{\"a\": 1}", "می", "👩", "36", "Let me know if you need more."]
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
rows_of = st.lists(st.builds(say, texts, texts), max_size=8)


# Cleaning

@settings(max_examples=400, deadline=None)
@given(texts)
@example("&amp;amp;lt;b&amp;gt;")
@example("\u200d\u200d<b>\u200d</b>")
def test_cleaning_what_is_clean_changes_nothing(text):
    once, _ = clean_text(text)
    again, done = clean_text(once)
    assert again == once and not done


@quick
@given(rows_of)
def test_cleaning_adds_up_and_can_be_undone_and_leaves_its_input_alone(rows):
    before = copy.deepcopy(rows)
    done = clean(rows)
    assert rows == before
    assert len(done.kept) + len(done.dropped) == done.n == len(rows)
    assert undo(done) == before
    assert clean(done.kept).changes == ()


@quick
@given(texts)
def test_the_changes_lead_from_the_first_text_to_the_last(text):
    out, done = clean_text(text)
    for rule, before, after in done: assert before == text and before != after and rule in RULES; text = after
    assert text == out


@pytest.mark.parametrize("text", [
    "Stop if x<y and z>1.", "It costs 10<sup>6</sup> cents.", "Write `<b>bold</b>` or `&amp;` in HTML.", "```html\n<p>x</p>\n```", "Write &lt;b&gt; for bold.",
    "shop.example/?id=7&copy=2", "می‌خواهم", "👩‍🍳", "Vec<u8> and List<T> and <think>", "<s>[INST] a [/INST]</s>", "x² + ½ №", "naïve café", "a < b > c", "{\"a\": \"b\"}"])
def test_what_only_looks_like_dirt_is_left_alone(text): assert clean_text(text) == (text, [])


@pytest.mark.parametrize("dirt,want", [
    ("Rosewood CafÃ©", "Rosewood Café"), ("it isnâ€™t", "it isn’t"), ("a\u200bb\ufeff", "ab"), ("a\u200db", "ab"), ("\u202eabc\u202c", "abc"), ("Tea &amp;amp; cake", "Tea & cake"), ("a\x00b", "ab"),
    ("<p>One</p><p>Two</p>", "One\nTwo"), ("one<br/>two", "one\ntwo"), ("one<br>\ntwo", "one\ntwo"), ("<script>alert(1)</script>x", "x"), ("<!-- hidden -->x", "x"), ("<a href='u'>link</a>", "link"),
    ("e\u0301", "é"), ("a\r\nb", "a\nb"), ("a  \nb", "a\nb"), ("a\n\n\n\nb", "a\n\nb"), ("1\u00a0000", "1 000"),
    ("Sure! Here is the JSON you asked for:\n{}", "{}"), ("Certainly! Here's the order:\n\n{}", "{}"), ("As an AI language model, I cannot.", "I cannot."),
    ("{}\n\nLet me know if you need anything else!", "{}"), ("{}\nI hope this helps!", "{}")])
def test_dirt_is_cleaned(dirt, want): assert clean_text(dirt)[0] == want


@pytest.mark.parametrize("text", ["Sure, we can deliver.", "Here we go: 3 trays", "I hope this helps the guests.", "Ask as an AI model would.", "Let me know if you come."])
def test_sentences_that_begin_like_boilerplate_are_kept(text): assert clean_text(text)[0] == text


def test_boilerplate_is_taken_from_the_assistant_only():
    row = say("Sure! Here is the list:\n36 trays", "Sure! Here is the JSON:\n{}")
    got = clean([row]).kept[0]
    assert text_of(got, "prompt") == "Sure! Here is the list:\n36 trays" and text_of(got, "answer") == "{}"


def test_an_answer_that_is_nothing_but_boilerplate_is_dropped_with_its_reason():
    done = clean([say("hi", "Sure! Here is the JSON:"), say("hi", "{}")])
    assert done.reasons == {"empty after cleaning": 1} and done.dropped[0].data == say("hi", "Sure! Here is the JSON:")


def test_roles_that_are_not_named_are_not_cleaned():
    got = clean([say("Caf\u00c3\u00a9", "Caf\u00c3\u00a9")], roles=["assistant"]).kept[0]
    assert text_of(got) == "Caf\u00c3\u00a9\nCafé"


@pytest.mark.parametrize("page", ["<p>One <b>two</b></p>", "<div><span>a</span> b</div>", "<ul><li>x</li></ul>", "a <i>b</i> c"])
def test_on_real_markup_the_words_are_those_of_beautifulsoup(page):
    assert clean_text(page)[0].split() == BeautifulSoup(page, "html.parser").get_text().split()


def test_repeated_lines_are_counted_by_row_and_taken_out_when_asked():
    rows = [say(f"{t}\nAccept all cookies\nAccept all cookies", "ok") for t in "abcdefgh"] + [say("x", "ok")]*3
    assert repeated_lines(rows) == [("Accept all cookies", 8)]
    done = clean(rows, lines=["Accept all cookies"], rules=())
    assert done.rules == {"repeated line": 8} and text_of(done.kept[0], "prompt") == "a"


def test_text_of_leaves_the_system_prompt_out_and_tool_calls_in():
    row = dict(messages=[dict(role="system", content="S"), dict(role="user", content="U"), dict(role="assistant", content=None, tool_calls=[dict(name="é")]),
                         dict(role="tool", content="T"), dict(role="assistant", content="A")])
    assert text_of(row, "prompt") == "U\nT" and text_of(row, "answer") == '[{"name": "é"}]\nA' and "S" not in text_of(row)


def test_drop_if_gives_the_first_reason_and_its_detail():
    done = drop_if([say("a", "1"), say("b", "2"), say("c", "3")], {"one": lambda r: "is one" if text_of(r, "answer") == "1" else "", "few": lambda r: text_of(r, "answer") in "12"})
    assert [(d.row, d.reason, d.detail) for d in done.dropped] == [(0, "one", "is one"), (1, "few", "")] and done.at == [2]


SLOW = ["<!--"*40_000, "<script>"*20_000, "a"*200_000, "a" + " "*100_000 + "b", "x\n" + "\n"*3_000 + "y", "Sure! " + "\n"*3_000 + "x", "a@"*50_000, "&" + "amp;"*50_000, "`"*100_001, "1 "*50_000, "x" + "\t\n"*3_000 + "y"]


@pytest.mark.parametrize("text", SLOW, ids=lambda t: repr(t[:12]))
def test_a_huge_or_spiteful_row_takes_seconds_not_hours(text):
    "In a process of its own: a regular expression that runs away cannot be interrupted."
    work = ("import sys; from ftcourse.curate import PERSONAL, clean_text, find_personal, normalise; text = sys.stdin.read(); "
            "clean_text(text); normalise(text); find_personal(text, kinds=[k for k in PERSONAL if k != 'phone'])")
    subprocess.run([sys.executable, "-c", work], input=text, text=True, timeout=20, check=True)


@pytest.mark.parametrize("depth", [1, 3, 30, 300])
def test_what_was_escaped_many_times_is_cleaned_to_the_end(depth):
    text, _ = clean_text("Tea &" + "amp;"*depth + " cake")
    assert text == "Tea & cake"


def test_a_phrase_at_the_end_goes_with_the_empty_lines_before_it_and_no_others():
    assert clean_text("a\n\n\n \t\nI hope this helps!", rules=["boilerplate"])[0] == "a"
    assert clean_text("Sure! Here is it:\nb  ", rules=["boilerplate"])[0] == "Here is it:\nb  "


# Duplicates

words = st.lists(st.sampled_from("red green blue oak tray cup by may june 1 2 3".split()), max_size=12).map(" ".join)


@quick
@given(words, words, st.integers(1, 6))
def test_jaccard_is_a_similarity(a, b, n):
    x, y = shingles(a, n), shingles(b, n)
    s = jaccard(x, y)
    assert 0 <= s <= 1 and s == jaccard(y, x) and jaccard(x, x) == 1
    assert (s == 1) == (x == y)


@pytest.mark.parametrize("s,bands,rows", [(.2, 20, 5), (.5, 20, 5), (.8, 20, 5), (.6, 42, 3)])
def test_found_is_the_table_of_the_book(s, bands, rows):
    "Mining of Massive Datasets, figure 3.8 prints .006, .470 and .9996 for 20 bands of 5."
    want = {(.2, 20): .006, (.5, 20): .470, (.8, 20): .9996, (.6, 42): 1 - (1 - .216)**42}[s, bands]
    assert found(s, bands, rows) == pytest.approx(want, abs=6e-4)


@pytest.mark.parametrize("threshold", [.3, .5, .7, .8, .9, .95, 1.])
@pytest.mark.parametrize("perm", [64, 128, 256])
def test_chosen_bands_reach_the_recall_and_one_number_more_would_not(threshold, perm):
    bands, rows = choose_bands(threshold, perm=perm)
    assert bands*rows <= perm and found(threshold, bands, rows) >= .99
    if rows < perm: assert all(found(threshold, perm//r, r) < .99 for r in range(rows + 1, perm + 1))


def test_chosen_bands_find_more_at_the_threshold_than_the_librarys():
    from datasketch.lsh import _optimal_param
    for t in (.5, .7, .8, .9): assert found(t, *choose_bands(t)) >= .99 > found(t, *_optimal_param(t, 128, .5, .5))


def near_copies(n, seed):
    rng, out = random.Random(seed), []
    for i in range(n):
        base = [rng.choice(string.ascii_lowercase) for _ in range(120)]
        out.append("".join(base))
        for _ in range(rng.randrange(3)):
            other = list(base)
            for k in rng.sample(range(120), rng.choice([1, 2, 4, 8])): other[k] = rng.choice(string.ascii_lowercase)
            out.append("".join(other))
    rng.shuffle(out)
    return out


@pytest.mark.parametrize("threshold", [.4, .6, .8])
def test_near_pairs_are_those_of_comparing_all(threshold):
    texts = near_copies(60, 0)
    sets = [shingles(t) for t in texts]
    want = {(i, j): jaccard(sets[i], sets[j]) for i in range(len(sets)) for j in range(i + 1, len(sets))}
    want = {p: s for p, s in want.items() if s >= threshold}
    got = {(i, j): s for i, j, s in near_pairs(texts, threshold=threshold)}
    assert len(want) > 20 and got.keys() <= want.keys() and all(got[p] == want[p] for p in got)
    assert len(got) >= .98*len(want)


def test_candidates_of_the_library_are_the_ones_that_are_verified():
    "Same bands, same signatures: what datasketch makes candidates, minus what is below the threshold, is what near_pairs reports."
    from datasketch import MinHash, MinHashLSH
    texts = near_copies(40, 1)
    b, r = choose_bands(.6)
    lsh, pieces, want = MinHashLSH(num_perm=b*r, params=(b, r)), [shingles(t) for t in texts], set()
    for i, s in enumerate(pieces):
        m = MinHash(num_perm=b*r, seed=1); m.update_batch([p.encode() for p in s])
        want |= {(j, i) for j in lsh.query(m) if jaccard(pieces[i], pieces[j]) >= .6}
        lsh.insert(i, m)
    assert {(i, j) for i, j, _ in near_pairs(texts, threshold=.6)} == want


def test_minhash_estimates_within_its_error():
    from datasketch import MinHash
    import numpy as np
    z = []
    for k in range(150):
        s = .1 + .8*k/149
        both = [f"{k}/{i}".encode() for i in range(200)]; cut = round(s*200)
        a, b = MinHash.bulk([both[:cut] + both[cut::2], both[:cut] + both[cut + 1::2]], num_perm=128, seed=k + 1)
        z.append((a.jaccard(b) - cut/200)/(s*(1 - s)/128)**.5)
    assert abs(np.mean(z)) < .25 and .8 < np.std(z) < 1.2


@quick
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=15))))
def test_clusters_are_the_connected_parts(case):
    n, pairs = case
    got = clusters(n, pairs)
    reach = [{i} for i in range(n)]
    for _ in range(n):
        for i, j in pairs: reach[i] = reach[j] = reach[i] | reach[j]
        for i in range(n): reach[i] = set().union(*(reach[k] for k in reach[i]))
    assert got == [min(r) for r in reach]


dup_rows = st.lists(st.sampled_from(["one tray", "One  Tray!", "two cups by may", "two cups by May.", "three", "", "four jars of red glass"]).map(say), max_size=12)


@quick
@given(dup_rows, st.sampled_from([1., .9, .5]), st.sampled_from(PARTS), st.sampled_from(["first", "longest"]))
def test_one_row_of_each_cluster_is_kept(rows, threshold, part, keep):
    done = deduplicate(rows, threshold=threshold, part=part, keep=keep)
    assert len(done.kept) + len(done.dropped) == len(rows) and [rows[i] for i in done.at] == done.kept
    keys = [normalise(text_of(r, part)) for r in done.kept]
    filled = [k for k in keys if k]
    assert len(filled) == len(set(filled)), "two equal rows were kept"
    assert set(filled) == {k for r in rows if (k := normalise(text_of(r, part)))} or threshold < 1
    for d in done.dropped:
        kept_one = int(re.search(r"of row (\d+)", d.detail)[1])
        assert kept_one in done.at, "a duplicate of a row that was dropped itself"
    assert not deduplicate(done.kept, threshold=threshold, part=part, keep=keep).dropped


@pytest.mark.parametrize("a,b", [("What is 7 + 3?", "What is 7 * 3?"), ("C++", "C#"), ("Is 5 > 3?", "Is 5 < 3?"), ("find -5", "find 5"), ("की", "के"), ("กิน", "กัน"), ("👍", "👎"), ("5 %", "5 €"), ("1.5", "15")])
def test_signs_that_mean_something_are_kept_apart(a, b):
    assert normalise(a) != normalise(b)
    assert not deduplicate([say(a), say(b)], part="prompt").dropped and not conflicts([say(a, "1"), say(b, "2")])
    assert not overlap([say(a)], [say(b)], share=1.) or "normalised" not in {o["kind"] for o in overlap([say(a)], [say(b)]) if o["part"] == "prompt"}


@pytest.mark.parametrize("a,b", [("Please send 36 oak trays.", "please  SEND: “36” oak-trays!!"), ("e\u0301", "é"), ("it’s", "it's"), ("x\u200b", "x"), ("(a) [b] {c}", "a b c"), ("ﬁne", "fine"), ("ab\ud800", "ab")])
def test_what_only_looks_different_is_the_same(a, b): assert normalise(a) == normalise(b) != ""


@quick
@given(texts)
def test_normalising_twice_is_normalising_once(text): assert normalise(normalise(text)) == normalise(text)


def test_rows_under_different_instructions_are_no_duplicates_and_no_conflicts():
    rows = [say("What is a trivet?", "A stand.", system="Be brief."), say("What is a trivet?", "Un dessous-de-plat.", system="Answer in French."), say("what is a trivet", "A stand.", system="Be brief.")]
    assert deduplicate(rows, part="prompt").at == [0, 1] and deduplicate(rows, part="prompt", threshold=.6).at == [0, 1]
    assert conflicts(rows) == [] and conflicts([*rows, say("What is a trivet?", "A cloth.", system="Be brief.")]) == [[0, 2, 3]]


def test_keep_longest_keeps_the_longest():
    rows = [say("we need oak trays by may please"), say("we need oak trays by may please!!!")]
    assert deduplicate(rows, keep="longest").at == [1] and deduplicate(rows).at == [0]


def test_orders_are_no_near_duplicates_of_each_other_until_the_template_is_compared():
    assert not deduplicate(ORDERS, part="prompt", threshold=.5).dropped
    whole = [say("\n".join(m["content"] for m in r["messages"])) for r in ORDERS]
    assert len(deduplicate(whole, part="prompt", threshold=.35).dropped) > 60


def test_conflicts_are_the_same_question_with_other_answers():
    rows = [say("how many?", "3"), say("How many", "4"), say("who", "Ana"), say("Who?", "ana"), say("when", "today")]
    assert conflicts(rows) == [[0, 1]]


# Overlap

def test_overlap_tells_copies_from_normalised_copies_from_shared_runs_of_words():
    long = "the kitchen asks for thirty six oak trays to be here on the ninth of march at noon"
    train = [say(long, "an answer of more than eight words that stands here twice")]
    test = [say(long, "x"), say(long.upper() + "!", "y"), say(long + " sharp, please", "z"), say("nothing of it", "an answer of more than eight words that stands here twice")]
    got = {(o["row"], o["part"]): o["kind"] for o in overlap(train, test)}
    assert got == {(0, "prompt"): "exact", (1, "prompt"): "normalised", (2, "prompt"): "n-gram", (3, "answer"): "exact"}


def test_prompts_are_not_compared_with_answers():
    long = "one two three four five six seven eight nine ten"
    assert overlap([say(long, "x")], [say("y", long)]) == []


def test_the_splits_of_orders_do_not_overlap():
    test = [dict(messages=messages(r["email"], r["order"])) for r in load_orders("test")]
    assert overlap(ORDERS, test) == []


# Outliers

@quick
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(-1e3, 1e3), st.floats(.01, 100))
def test_robust_z_does_not_depend_on_unit_or_origin(values, shift, scale):
    values = [round(v, 1) for v in values]
    a, b = robust_z(values), robust_z([scale*v + shift for v in values])
    if len({round(v, 6) for v in values}) == 1: assert a == [0.]*len(values)
    elif len(set(values)) > 1 and max(map(abs, a)) < 1e6: assert b == pytest.approx(a, rel=1e-4, abs=1e-4)


def test_robust_z_is_that_of_scipy():
    from scipy.stats import median_abs_deviation
    import numpy as np
    v = np.random.default_rng(0).normal(size=501)
    assert robust_z(v) == pytest.approx(list((v - np.median(v))/median_abs_deviation(v, scale="normal")), rel=1e-3)


def test_one_huge_value_does_not_hide_itself():
    rows = [say(str(i)) for i in range(30)]
    done = drop_outliers(rows, [10 + i % 3 for i in range(29)] + [4000], name="length")
    assert [d.row for d in done.dropped] == [29] and done.reasons == {"length: high": 1}
    assert drop_outliers(rows, [10 + i % 3 for i in range(29)] + [4000], name="length", side="low").dropped == []


def test_losses_are_the_models_own():
    import torch
    model, tokenizer = toy()
    rows = [say("ab", "cde"), say("a longer question", "x"), say("q", "an answer that is longer")]
    got = answer_losses(rows, model, tokenizer, batch=2)
    for r, loss in zip(rows, got):
        head = tokenizer(tokenizer.apply_chat_template(r["messages"][:-1], add_generation_prompt=True, tokenize=False), add_special_tokens=False)["input_ids"]
        tail = tokenizer(r["messages"][-1]["content"], add_special_tokens=False)["input_ids"]
        with torch.no_grad(): want = model(torch.tensor([head + tail]), labels=torch.tensor([[-100]*len(head) + tail])).loss.item()
        assert loss == pytest.approx(want, rel=1e-5)


# Language and personal data

def test_a_german_name_at_the_end_does_not_make_an_order_german():
    rows = [say("Please send us 36 oak trays by Friday.\nSchöne Grüße, Bäckerei Müller", ""), say("Bitte schicken Sie uns 36 Tabletts aus Eichenholz bis Freitag, vielen Dank.", ""), say("Bistro Zebra", "")]
    assert language(text_of(rows[0]))[0] == "de", "the example is no longer one: find another"
    assert [d.row for d in drop_languages(rows).dropped] == [1]
    assert [d.row for d in drop_languages(rows, "de").dropped] == [] or [d.row for d in drop_languages(rows, "de").dropped] == [0]


@pytest.mark.parametrize("text", ["36 42", "", "{}", "…!?"])
def test_what_has_no_letters_has_no_language(text): assert language(text) == ("und", 0.)


PERSON = {"email": ["ana@zebra.example", "a.b+c@mail.zebra.co.uk", "müller@bäckerei.de"], "phone": ["+49 30 901820", "+44 20 7946 0958"], "card": ["4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444"],
          "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"], "ip": ["192.168.17.4", "2001:db8::1", "fe80::1:2"],
          "key": ["AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "a1B2"*9, "hf_" + "abcdEFGH12"*3 + "abcd", "sk-" + "abcd1234"*4, "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"]}


@pytest.mark.parametrize("kind,text", [(k, t) for k, ts in PERSON.items() for t in ts])
@pytest.mark.parametrize("around", ["{}", "Write to {} please.", "({})", "x: {}, y", "„{}“"])
def test_personal_data_is_found_whole(kind, text, around):
    hits = find_personal(around.format(text))
    assert [(f.kind, f.text) for f in hits] == [(kind, text)]
    assert around.format(text)[hits[0].start:hits[0].end] == text


@pytest.mark.parametrize("text", ["4111 1111 1111 1112", "order 79927398713", "version 1.2.3", "DE89 3704 0044 0532 0130 02", "300.1.2.3", "12:30:45", "a@b", "@user", "::", "0000 0000 0000 0000",
                                  "2026-03-09", "09.03.2026", "36 trays", "1234567890123456", "skirt-and-jacket", "at 10:15"])
def test_what_only_looks_like_personal_data_is_not(text): assert find_personal(text) == []


@pytest.mark.parametrize("n", range(0, 200, 7))
def test_cards_and_ibans_pass_the_checksums_of_their_standards(n):
    "By hand: Luhn modulo 10 and ISO 7064 modulo 97."
    digits = f"4{n:015d}"
    luhn = sum(sum(divmod(2*int(c), 10)) if k % 2 else int(c) for k, c in enumerate(digits[::-1])) % 10 == 0
    assert bool(find_personal(digits, kinds="card")) == luhn
    iban = f"DE{n % 100:02d}370400440532013000"
    ok = int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1
    assert bool(find_personal(iban, kinds="iban")) == ok


flat = [t for ts in PERSON.values() for t in ts]
secrets = st.lists(st.one_of(st.sampled_from(flat), st.sampled_from([" ", ", ", "\n", "a", "7", "+", "-", ".", "[EMAIL_1]", "please", "@", ":"])), max_size=9).map("".join)


@quick
@given(st.lists(st.tuples(secrets, secrets), max_size=4), st.sampled_from([None, "DE", "US"]))
def test_after_masking_nothing_is_found_and_everything_can_be_undone(pairs, region):
    rows = [say(a, b) for a, b in pairs]
    done = mask_personal(rows, region=region)
    assert len(done.kept) == len(rows) and not done.dropped and undo(done) == rows
    for r in done.kept:
        for m in r["messages"]: assert not find_personal(m["content"], region=region)


def test_the_same_address_gets_the_same_mask_within_a_row_and_another_gets_another():
    got = mask_personal([say("ana@zebra.example and ben@zebra.example", "ana@zebra.example"), say("ben@zebra.example", "OK")]).kept
    assert text_of(got[0]) == "[EMAIL_1] and [EMAIL_2]\n[EMAIL_1]" and text_of(got[1], "prompt") == "[EMAIL_1]"


def test_masks_that_stand_there_already_are_not_used_again():
    once = mask_personal([say("ana@zebra.example, 030 901820, +49 30 901821", "[IP_1]")]).kept
    twice = mask_personal(once, region="DE").kept[0]
    assert text_of(twice, "prompt") == "[EMAIL_1], [PHONE_2], [PHONE_1]"


def test_kinds_that_are_not_asked_for_stay():
    text = "ana@zebra.example, 192.168.17.4"
    assert text_of(mask_personal([say(text)], kinds="ip").kept[0], "prompt") == "ana@zebra.example, [IP_1]"


# Splitting

grouped = st.lists(st.tuples(st.sampled_from("ABCDEFG"), st.sampled_from(["one oak tray", "One oak tray", "two cups by may", "five jars of glass", "six", "seven mats of straw", "eight tins"])), min_size=1, max_size=25)


@quick
@given(grouped, st.integers(0, 5), st.sampled_from([dict(train=.8, test=.2), dict(a=.5, b=.3, c=.2), dict(all=1.)]))
def test_a_split_loses_nothing_and_tears_nothing(pairs, seed, sizes):
    rows = [dict(**say(t), who=w) for w, t in pairs]
    try: got = split_rows(rows, sizes, group=lambda r: r["who"], seed=seed)
    except ValueError as e: assert "would be empty" in str(e) and len(sizes) > 1; return
    assert all(got.parts.values()) and sorted(i for v in got.at.values() for i in v) == list(range(len(rows)))
    assert all(got.parts[k] == [rows[i] for i in v] for k, v in got.at.items()) and list(got.parts) == list(sizes)
    side = {i: k for k, v in got.at.items() for i in v}
    for i, (w, t) in enumerate(pairs):
        for j, (v, u) in enumerate(pairs): assert side[i] == side[j] or (w != v and normalise(t) != normalise(u))
    biggest = max(got.cluster.count(c) for c in got.cluster)
    for k, share in sizes.items(): assert abs(len(got.parts[k]) - share*len(rows)) <= max(1, len(sizes) - 1)*biggest
    assert split_rows(rows, sizes, group=lambda r: r["who"], seed=seed).at == got.at


def test_near_duplicates_stay_together_and_seeds_differ():
    texts = near_copies(60, 3)
    rows = [say(t) for t in texts]
    got = split_rows(rows, dict(train=.7, test=.3), threshold=.6)
    side = {i: k for k, v in got.at.items() for i in v}
    assert all(side[i] == side[j] for i, j, _ in near_pairs(texts, threshold=.6))
    assert abs(len(got.parts["test"]) - .3*len(rows)) <= 3
    assert split_rows(rows, dict(train=.7, test=.3), threshold=.6, seed=1).at != got.at



@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_rows_without_a_group_are_free_whatever_says_so(nothing):
    "The same NaN in each row, as a table that was read from a file has it."
    rows = [dict(**say(f"{i} trays of kind {i*i}"), who=nothing) for i in range(20)]
    assert len(set(split_rows(rows, dict(a=.5, b=.5), group=lambda r: r["who"], threshold=None).cluster)) == 20


def test_a_group_called_zero_is_a_group():
    rows = [dict(**say(f"{i} trays of kind {i*i}"), who=i//10) for i in range(20)]
    assert set(split_rows(rows, dict(a=.5, b=.5), group=lambda r: r["who"], threshold=None).cluster) == {0, 10}


def test_one_large_cluster_leaves_no_part_empty_in_silence():
    with pytest.raises(ValueError, match="'test' would be empty: 6 rows in 1 clusters, the largest of 6"):
        split_rows([say("the same")]*6, dict(train=.8, test=.2))


# The report

def chain(rows):
    a = clean(rows); b = drop_if(a.kept, {"no answer": lambda r: not text_of(r, "answer").strip()}); c = deduplicate(b.kept)
    return [a, b, c]


@quick
@given(rows_of)
def test_the_reports_counts_add_up(rows):
    got = quality_report(chain(rows))
    d = got.as_dict()
    assert d["came"] == len(rows) == d["kept"] + sum(d["dropped"].values())
    for s in d["steps"]: assert s["n"] == s["kept"] + sum(s["dropped"].values())
    for a, b in zip(d["steps"], d["steps"][1:]): assert a["kept"] == b["n"]
    assert all(len(before) == len(rows) and len(after) == d["kept"] for before, after in got.lengths.values())
    page = got._repr_html_()
    for text in (f"<b>{len(rows)}</b> rows came in", f"<b>{d['kept']}</b> are left"): assert text in page
    assert f"{len(rows)} rows came in, {d['kept']} are left" in str(got)


def test_what_a_notebook_shows_of_a_result_is_its_counts_and_not_its_rows():
    for got in (clean(ORDERS), split_rows(ORDERS, dict(a=.5, b=.5)), quality_report(chain(ORDERS))): assert repr(got) == str(got) and len(repr(got)) < 1500


class Balance(html.parser.HTMLParser):
    "Remembers which tags are open, and everything that would be loaded from elsewhere."
    def __init__(self, page): super().__init__(); self.open, self.loads, self.bad = [], [], []; self.feed(page)
    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"): self.open.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href")]
    def handle_startendtag(self, tag, attrs): pass
    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag: self.bad.append(tag)


NASTY = [say("<script>alert(1)</script> ana@zebra.example", "Sure! Here is <b>it</b>:\n{}"), say("&\"'<", "</code></table>"), say("x", "Sure! Here is the JSON:"), say("x", "4111 1111 1111 1111 \u202eabc")]


def test_the_page_is_whole_needs_nothing_and_holds_no_live_text(tmp_path):
    report = quality_report(chain(NASTY), title="<i>Data</i> & more")
    page = report.save(tmp_path/"report.html").read_text(encoding="utf-8")
    found_tags = Balance(page)
    assert not found_tags.open and not found_tags.bad and not found_tags.loads
    assert "<script" not in page and "<i>Data" not in page and "http" not in page
    assert page.count('role="img"') == page.count("aria-label=") == 3
    assert 'lang="en"' in page and "viewport" in page and "color-scheme" in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_personal_data_is_not_in_the_report():
    rows = [say("Sure", "call ana@zebra.example\u200b now"), say("x", "call ana@zebra.example now"), say("x", "call ana@zebra.example now")]
    page = quality_report(chain(rows))._repr_html_()
    assert "ana@" not in page and "[EMAIL_1]" in page


def test_numbers_of_the_region_are_not_in_the_report_either():
    rows = [say("x", "call 030 901820 now"), say("x", "Call 030 901820 now!")]
    report = quality_report(chain(rows), region="DE")
    assert report.flags["personal data"] == 1 and "901820" not in report._repr_html_()


def test_half_an_address_is_not_in_the_report():
    "The example of a change is cut forty characters from it: here in the middle of an address."
    rows = [say("x\u200b" + "and so on, "*3 + "ana.keller@zebra.example, thank you very much and see you soon")]
    page = quality_report(chain(rows))._repr_html_()
    assert "ana" not in page and "keller" not in page and "[EMA" in page


def test_what_was_masked_is_not_in_the_report():
    page = quality_report([mask_personal([say("Write to ana.keller@zebra.example, please.")])])._repr_html_()
    assert "keller" not in page and "(not shown)" in page and "[EMAIL_1]" in page


def test_a_page_with_half_a_character_can_be_written(tmp_path):
    rows = [say("a\ud800", "b"), say("a\ud800", "b")]
    assert "ud800" in quality_report(chain(rows), title="x\ud800").save(tmp_path/"report.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    report = quality_report(chain(NASTY))
    def fail(*a): raise OSError("disk full")
    monkeypatch.setattr(curate.os, "replace", fail)
    with pytest.raises(OSError): report.save(tmp_path/"report.html")
    assert list(tmp_path.iterdir()) == []


def test_steps_that_do_not_follow_each_other_make_no_report():
    a, b, c = chain(ORDERS)
    other = deduplicate([say(str(i)) for i in range(len(a.kept))])
    for steps in ([a, other], [b, a, c, deduplicate(ORDERS[:5])], []):
        with pytest.raises(ValueError): quality_report(steps)


def test_a_step_whose_rows_do_not_add_up_cannot_be_made():
    row = say("x")
    for kept, at, dropped in ([[row], [0], []], [[row, row], [0, 1], [Drop(1, "twice", "", row)]], [[row], [0, 1], []]):
        with pytest.raises(ValueError, match="do not add up"): Curated("mine", 2, kept, at, dropped)


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_telephone_and_can_be_read(browser, tmp_path, scheme):
    path = quality_report(chain([*NASTY, *ORDERS, say("w"*400, "Sure! Here is the JSON:\n" + "v"*300)])).save(tmp_path/"report.html")
    context = browser.new_context(viewport=dict(width=390, height=800), color_scheme=scheme)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = page.evaluate("[getComputedStyle(document.querySelector('.ft-q td')).color, getComputedStyle(document.documentElement).colorScheme]")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark == (scheme == "dark") and "dark" in paper
    assert sum(map(int, re.findall(r"\d+", ink)[:3])) > 600 if dark else sum(map(int, re.findall(r"\d+", ink)[:3])) < 150
    context.close()


# The explorer

@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("bands,rows,threshold", [(32, 4, .8), (9, 13, .8), (16, 8, .5), (128, 1, .2), (21, 6, .85)])
def test_the_explorer_computes_what_python_and_datasketch_do(browser, bands, rows, threshold):
    from datasketch.lsh import _false_negative_probability, _false_positive_probability
    values = [(i + .5)/100 for i in range(100) for _ in range(1 + i % 3)]   # bin centres, so that JS and Python see the same numbers
    page = browser.new_page()
    page.set_content(dedup_explorer(values)._repr_mimebundle_()[0]["text/html"])
    box = page.locator(".ft").first
    box.locator("dd").first.wait_for()
    choose(box, "bands", str([1, 2, 4, 6, 8, 9, 12, 16, 21, 25, 32, 42, 64, 128].index(bands)))
    choose(box, "rows", str(rows)); choose(box, "threshold", str(threshold))
    got = readout(box)
    assert float(got["found at the threshold"]) == pytest.approx(found(threshold, bands, rows), abs=6e-4)
    assert float(got["area of false positives"]) == pytest.approx(_false_positive_probability(threshold, bands, rows), abs=6e-5)
    assert float(got["area of false negatives"]) == pytest.approx(_false_negative_probability(threshold, bands, rows), abs=6e-5)
    assert float(got["half are found from"]) == pytest.approx((1 - .5**(1/bands))**(1/rows), abs=6e-4)
    wanted = [v for v in values if v >= threshold]
    hit, total = got["wanted pairs, expected to be found"].split(" of ")
    assert int(total) == len(wanted) and float(hit) == pytest.approx(sum(found(v, bands, rows) for v in wanted), abs=.06)
    assert float(got["needless pairs to verify, expected"]) == pytest.approx(sum(found(v, bands, rows) for v in values if v < threshold), abs=.06)


# Bad input

ROW = say("a", "b")

@pytest.mark.parametrize("call,says", [
    (lambda: clean("rows.jsonl"), "rows are a str: give a list"), (lambda: clean({"messages": []}), "rows are a dict: give a list"), (lambda: clean(7), "rows are a int"),
    (lambda: clean([ROW, {"text": "x"}]), "row 1 has no list of messages: .*to_messages"), (lambda: clean([dict(messages=[])]), "row 0 has no list of messages"),
    (lambda: clean([dict(messages=["hi"])]), "message without a role"), (lambda: clean([dict(messages=[dict(role="user", content=[{}])])]), "content is a list: only text"),
    (lambda: clean([ROW], rules="space"), "rules are 'space': give names"), (lambda: clean([], rules=["nope"]), "give names out of"), (lambda: clean_text(None), "text is a NoneType"),
    (lambda: clean([ROW], lines="x"), "lines is the text 'x'"), (lambda: text_of(ROW, "user"), "part is 'user'"), (lambda: repeated_lines([ROW], share=0), "share is 0"),
    (lambda: drop_if([ROW], [len]), "give a dict of reason"), (lambda: drop_if([ROW], {"x": lambda r: r["no"]}), "test 'x' failed on row 0: KeyError"),
    (lambda: shingles("x", 0), "n is 0"), (lambda: choose_bands(0), "threshold is 0"), (lambda: choose_bands(.5, recall=1), "recall is 1"), (lambda: choose_bands(.5, perm=1), "perm is 1"),
    (lambda: choose_bands(.01), "raise perm"), (lambda: clusters(2, [(0, 2)]), r"pair \(0, 2\): there are items 0 to 1"), (lambda: deduplicate([ROW], keep="last"), "keep is 'last'"),
    (lambda: deduplicate([ROW], threshold=0), "threshold is 0"), (lambda: deduplicate([ROW], part="x"), "part is 'x'"), (lambda: overlap([ROW], [ROW], n=0), "n is 0"),
    (lambda: overlap([ROW], [ROW], share=2), "share is 2"), (lambda: robust_z([1, float("inf")]), "value 1 is NaN or infinite"), (lambda: drop_outliers([ROW], [], name="x"), "0 values for 1 rows"),
    (lambda: drop_outliers([ROW], [1], name="x", side="up"), "side is 'up'"), (lambda: drop_outliers([ROW], [1], name="x", z=0), "z is 0"),
    (lambda: answer_losses([dict(messages=ROW["messages"][:1])], *toy()), "row 0 does not end with an answer: its last message is of 'user'"), (lambda: answer_losses([ROW], *toy(), batch=0), "batch is 0"),
    (lambda: drop_languages([ROW], "English"), "give codes such as 'en'"), (lambda: find_personal("x", kinds="name"), r"kinds \['name'\]: use key"), (lambda: find_personal("x", region="XX"), "region is 'XX'"),
    (lambda: split_rows([ROW], {}), "sizes are {}"), (lambda: split_rows([ROW], dict(a=.5)), "together 1"), (lambda: split_rows([ROW], dict(a=1.5, b=-.5)), "together 1"),
    (lambda: split_rows([ROW], dict(a=1.), group=lambda r: []), r"row 0 has no usable group \(unhashable"), (lambda: split_rows([ROW], dict(a=1.), group=lambda r: r["who"]), "row 0 has no usable group"),
    (lambda: split_rows([], dict(a=1.)), "'a' would be empty: 0 rows"), (lambda: split_rows([ROW], dict(a=.5, b=.5)), "'b' would be empty: 1 rows in 1 clusters"),
    (lambda: clean([ROW], roles=["asistant"]), r"roles \['asistant'\]: use system"), (lambda: near_pairs("abc"), "texts are the text 'abc'"), (lambda: near_pairs(["a", None]), "text 1 is a NoneType"),
    (lambda: robust_z([1, None]), "value 1 is None"), (lambda: robust_z(["a"]), "value 0 is 'a'"), (lambda: deduplicate([], threshold=0), "threshold is 0"),
    (lambda: answer_losses([say("a", "b\ud83d")], *toy()), "row 0 holds half of a character"), (lambda: answer_losses([say("a", "b"*5000)], *toy()), r"row 0 has \d+ tokens, the model reads \d+"),
    (lambda: answer_losses([dict(messages=[dict(role="user", content="a"), dict(role="assistant", content=None, tool_calls=[{}])])], *toy()), "is of .assistant. and has no text"), (lambda: quality_report([ROW]), "steps: give what clean"), (lambda: dedup_explorer([]), "0 similarities"),
    (lambda: dedup_explorer([2.]), "give numbers from 0 to 1"), (lambda: quality_report(chain([ROW])).save("no/where/x.html"), "no/where is no folder")])
def test_bad_input_is_named_with_its_remedy(call, says):
    with pytest.raises(ValueError, match=says): call()


@pytest.mark.parametrize("step", [clean, lambda r: drop_if(r, {}), deduplicate, lambda r: deduplicate(r, threshold=.8), drop_languages, mask_personal, lambda r: drop_outliers(r, [], name="x")])
def test_no_rows_are_no_error(step):
    done = step([])
    assert (done.n, done.kept, done.dropped) == (0, [], []) and undo(done) == []
