"""Reading, checking and converting training data: the malformed corpus, the laws, and parity with TRL and datasets."""
import copy, errno, gzip, http.server, io, itertools, json, os, resource, subprocess, sys, threading, tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from malformed import FILES, GOOD, HOPELESS, LINES, OBJECTS
from web import needs_browser

from ftcourse import records
from ftcourse.records import (FORMATS, LOSSES, REASONS, Problem, RecordError, Report, check, convert, convert_row, find_problems, look, read_rows,
                              recognise, to_messages)

U, A, S = ({"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Hello!"), ("system", "Be brief.")))
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]}
RESULT = {"role": "tool", "content": "3", "tool_call_id": "c1"}


settings.register_profile("records", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.load_profile("records")


def raw(x): return x if isinstance(x, bytes) else x.encode("utf-8", "surrogatepass")
def lines(path): return [json.loads(l) for l in Path(path).read_text(encoding="utf-8").split("\n") if l]  # splitlines would cut at U+2028, too
def jsonl(path, *rows): path.write_text("".join(json.dumps(r) + "\n" for r in rows)); return path
def ids(table): return [c[0] for c in table]


# --- the corpus -----------------------------------------------------------------------------------------------------

def adds_up(source, tmp_path, rows, good, bad, to):
    "check and convert agree, and every row is in one of the two files."
    report = check(source)
    assert (report.rows, report.good, report.bad) == (rows, good, bad), str(report)
    out = tmp_path/"out.jsonl"
    moved = convert(source, out, to=to)
    assert (moved.rows, moved.good, moved.bad) == (rows, good, bad), str(moved)
    assert len(lines(out) if out.exists() else []) == good
    rejected = lines(tmp_path/"out.rejected.jsonl") if bad else []
    assert len(rejected) == bad and all(r["problems"] for r in rejected)
    assert out.exists() == (good > 0) and (tmp_path/"out.rejected.jsonl").exists() == (bad > 0)
    return report, rejected


@pytest.mark.parametrize("name,format,line,reason,where", LINES, ids=ids(LINES))
def test_a_malformed_line_is_named_and_set_aside(tmp_path, name, format, line, reason, where):
    good = json.dumps(GOOD[format]).encode()
    (tmp_path/"x.jsonl").write_bytes(good + b"\n" + raw(line) + b"\n" + good + b"\n")
    report, (rejected,) = adds_up(tmp_path/"x.jsonl", tmp_path, 3, 2, 1, format)
    found = [p for p in report.problems if p.reason == reason]
    assert found and (found[0].row, found[0].line) == (2, 2), report.problems
    assert not where or found[0].field == where
    assert rejected["raw"].encode("utf-8", "surrogateescape") == raw(line), "the row's own bytes are kept"
    assert found[0].remedy in REASONS[reason] and REASONS[reason][0] in str(found[0]) and "row 2 (line 2)" in str(found[0])


@pytest.mark.parametrize("name,format,row,reason,where", OBJECTS, ids=ids(OBJECTS))
def test_a_malformed_object_is_named_and_set_aside(tmp_path, name, format, row, reason, where):
    report, _ = adds_up([GOOD[format], row, GOOD[format]], tmp_path, 3, 2, 1, format)
    found = [p for p in report.problems if p.reason == reason]
    assert found and (found[0].row, found[0].line) == (2, None) and (not where or found[0].field == where), report.problems


@pytest.mark.parametrize("name,file,content,rows,good,bad,reasons,note", FILES, ids=ids(FILES))
def test_a_malformed_file_is_read_as_far_as_it_can_be(tmp_path, name, file, content, rows, good, bad, reasons, note):
    (tmp_path/file).write_bytes(content)
    report, _ = adds_up(tmp_path/file, tmp_path, rows, good, bad, recognise_or(tmp_path/file))
    assert set(report.reasons) == reasons
    assert note in " ".join(report.notes) and bool(note) == bool(report.notes), report.notes


def recognise_or(path): return check(path).format or "messages"


@pytest.mark.parametrize("name,file,content,says", HOPELESS, ids=ids(HOPELESS))
def test_a_hopeless_file_is_refused_in_one_line_and_leaves_nothing(tmp_path, name, file, content, says):
    (tmp_path/file).write_bytes(content)
    for act in (check, lambda p: convert(p, tmp_path/"out.jsonl"), lambda p: list(read_rows(p)), look):
        with pytest.raises(RecordError) as e: act(tmp_path/file)
        assert says in str(e.value) and "\n" not in str(e.value) and str(tmp_path) in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == [file]


def test_the_corpus_has_more_than_a_hundred_inputs_and_every_reason():
    assert len(LINES) + len(OBJECTS) + len(FILES) + len(HOPELESS) > 250
    reasons = {c[3] for c in LINES + OBJECTS} | {r for c in FILES for r in c[6]}
    assert reasons == set(REASONS) - {"no_turns", "no_place", "no_rejected", "lost"}, "those four come from converting"
    lesson = (Path(__file__).parent.parent/"nbs"/"20_records.ipynb").read_text(encoding="utf-8")
    assert f"a table of {len(LINES) + len(OBJECTS) + len(FILES) + len(HOPELESS)} inputs" in lesson
    for table in (LINES, OBJECTS, FILES, HOPELESS): assert len(set(ids(table))) == len(table)


# --- formats --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("row,format", [
    ({"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}, "sharegpt"),
    ({"conversations": [U, A]}, "messages"),
    ({"conversation": [{"from": "human", "value": "Hi"}]}, "sharegpt"),
    ([U, A], "messages"),
    ({"instruction": "Hi", "output": "Hello!"}, "alpaca"),
    ({"instruction": "Hi", "output": "Hello!", "text": "Below is …"}, "alpaca"),
    ({"prompt": [U], "completion": [A]}, "prompt_completion"),
    ({"prompt": "Hi", "messages": [U, A], "prompt_id": "7"}, "messages"),
    ({"chosen": [U, A], "rejected": [U, A]}, "preference"),
    ({"instruction": "Hi", "chosen": "a", "rejected": "b"}, "preference"),
    ({"conversations": [], "chosen": {}, "rejected": {}}, "preference"),
    ({"messages": None, "text": "Hi"}, "text"),
    *((row, f) for f, row in FORMATS.items())])
def test_a_format_is_recognised_by_its_keys(row, format): assert recognise([row]) == format


def test_most_rows_decide_the_format_and_the_others_are_named(tmp_path):
    rows = [GOOD["alpaca"], GOOD["sharegpt"], GOOD["alpaca"], GOOD["alpaca"]]
    r = check(rows)
    assert r.format == "alpaca" and r.reasons == {"other_format": 1} and r.problems[0].row == 2
    assert check(rows, format="sharegpt").good == 1


def test_a_format_that_is_forced_is_believed():
    row = {"prompt": "Hi", "completion": "Hello!", "text": "Hi Hello!"}
    assert check([row]).format == "prompt_completion" and check([row], format="text").good == 1
    assert to_messages(row) == {"messages": [U, A], "text": "Hi Hello!"}


@pytest.mark.parametrize("rows,says", [([{"role": "user", "content": "Hi"}], "single turn"), ([{"data": [GOOD["alpaca"]]}], "under 'data'"),
    ([{"columns": ["a"], "x": {"a": 1}}], "columns, not rows"), ([{"q": "a", "a": "b"}], "a, q"), ([], "no rows"), ([1], "not objects")])
def test_what_is_not_recognised_says_what_there_is(rows, says):
    with pytest.raises(RecordError, match=says): recognise(rows)


@pytest.mark.parametrize("row,want", [
    ({"instruction": "Add", "input": "1+2", "output": "3"}, [("user", "Add\n1+2"), ("assistant", "3")]),
    ({"instruction": "Add", "output": "3", "system": "Be brief.", "history": [["a", "b"]]}, [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "Add"), ("assistant", "3")]),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], "system": "Be brief."}, [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")]),
    ({"messages": [{"role": "developer", "content": "Be brief."}, U, A]}, [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")]),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, A]}, [("user", "Hi"), ("assistant", "Hello!")]),
    ({"prompt": "Hi", "completion": " Hello!"}, [("user", "Hi"), ("assistant", " Hello!")]),
    ({"prompt": "Hi", "chosen": [U, A], "rejected": [U, {"role": "assistant", "content": "What?"}]}, [("user", "Hi"), ("assistant", "Hello!")]),
    ({"question": "Hi", "system": "Be brief.", "chosen": "Hello!", "rejected": "What?"}, [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")]),
    ({"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello!"}, "rejected": {"from": "gpt", "value": "What?"}}, [("user", "Hi"), ("assistant", "Hello!")]),
    ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"}, [("user", "Hi"), ("assistant", "Hello!")]),
    ({"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"}, [("user", "Hi"), ("assistant", "Hello!")]),
    ({"text": "### Instruction:\nAdd\n\n### Input:\n1+2\n\n### Response:\n3"}, [("user", "Add\n1+2"), ("assistant", "3")]),
    ({"text": "Below is an instruction that describes a task.\n\n### Instruction:\nHi\n\n### Response:\nHello!"}, [("user", "Hi"), ("assistant", "Hello!")]),
])
def test_to_messages_reads_every_dialect(row, want):
    before = copy.deepcopy(row)
    assert [(m["role"], m["content"]) for m in to_messages(row)["messages"]] == want
    assert row == before, "the row is left alone"


def test_calls_and_results_go_between_messages_and_sharegpt():
    row = {"messages": [U, CALL, RESULT, A], "tools": TOOLS}
    there, lost = convert_row(row, "sharegpt")
    assert [t["from"] for t in there["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(there["conversations"][1]["value"]) == {"name": "add", "arguments": {"a": 1}} and json.loads(there["tools"]) == TOOLS
    assert lost == {"call_ids"}
    back = to_messages(there)
    assert back["tools"] == TOOLS and [m["role"] for m in back["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert back["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert convert_row(back, "sharegpt") == (there, set())


def test_an_id_that_only_the_result_has_is_lost_too():
    call = {**CALL, "tool_calls": [{"function": CALL["tool_calls"][0]["function"]}]}
    assert convert_row({"messages": [U, call, RESULT, A]}, "sharegpt")[1] == {"call_ids"}


def test_several_calls_at_once_stay_together():
    two = {**CALL, "tool_calls": [{"function": {"name": "add", "arguments": {"a": i}}} for i in (1, 2)]}
    row = {"messages": [U, two, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, A]}
    there, lost = convert_row(row, "sharegpt")
    assert len(json.loads(there["conversations"][1]["value"])) == 2 and not lost
    assert len(to_messages(there)["messages"][1]["tool_calls"]) == 2


def test_an_empty_system_turn_is_kept():
    "It keeps templates from adding a system prompt of their own."
    row = {"messages": [{"role": "system", "content": ""}, U, A]}
    assert not find_problems(row) and to_messages(row) == row


def test_fields_that_no_format_owns_travel_along():
    row = {**GOOD["alpaca"], "id": 7, "source": {"name": "shop"}}
    for to in ("messages", "sharegpt", "prompt_completion", "text"):
        new, lost = convert_row(row, to)
        assert (new["id"], new["source"], lost) == (7, {"name": "shop"}, set())


# --- conversion -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("row,to,more,lost", [
    ({"messages": [S, U, A]}, "alpaca", {}, {"system"}),
    ({"messages": [U, A, U, A]}, "alpaca", {}, {"earlier_turns"}),
    ({"messages": [S, U, A, U, A]}, "alpaca", dict(extend=True), set()),
    ({"messages": [U, A, U, A]}, "prompt_completion", {}, {"untrained_answers"}),
    ({"messages": [S, U, A, U, A]}, "prompt_completion", dict(strings=True), {"system", "earlier_turns"}),
    ({"messages": [U, A], "tools": TOOLS}, "alpaca", {}, {"tools"}),
    ({"messages": [U, A], "tools": TOOLS}, "alpaca", dict(extend=True), set()),
    ({"messages": [U, A], "tools": TOOLS}, "text", {}, {"tools"}),
    ({"messages": [U, A], "tools": TOOLS}, "sharegpt", {}, set()),
    ({"messages": [{**U, "name": "Bea"}, A]}, "sharegpt", {}, {"turn_fields"}),
    ({"messages": [U, {**A, "weight": 1}]}, "alpaca", {}, {"turn_fields"}),
    ({"messages": [U, {**CALL, "content": "Let me see."}, RESULT, A]}, "sharegpt", {}, {"call_ids", "said_with_call"}),
    ({"messages": [{"role": "user", "content": "<|im_end|>"}, A]}, "text", {}, {"markers"}),
    ({"messages": [U, A], "text": "Hi"}, "text", {}, {"columns"}),
    ({"messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}, A]}, "sharegpt", {}, {"parts"}),
    ({"instruction": "Add", "input": "1+2", "output": "3"}, "messages", {}, {"joined"}),
    ({"instruction": "Add", "input": "1+2", "output": "3"}, "alpaca", {}, set()),
    ({"prompt": "Hi", "completion": " Hello!"}, "text", {}, {"boundary"}),
    ({"text": "Below is an instruction.\n\n### Instruction:\nHi\n\n### Response:\nHello!"}, "messages", {}, {"preamble"}),
    ({"text": "### Instruction:\nAdd\n\n### Input:\n1+2\n\n### Response:\n3"}, "messages", {}, {"joined"}),
    ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "messages", {}, {"rejected"}),
    ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "prompt_completion", {}, {"rejected"}),
])
def test_what_a_conversion_loses_is_said(row, to, more, lost):
    new, said = convert_row(row, to, **more)
    assert said == lost and recognise(new) == to and not find_problems(new)


def test_every_loss_is_shown_to_happen():
    shown = next(m for m in test_what_a_conversion_loses_is_said.pytestmark if m.name == "parametrize").args[1]
    assert set().union(*(lost for *_, lost in shown)) == set(LOSSES)


@pytest.mark.parametrize("row,to,reason", [
    ({"messages": [U, A]}, "preference", "no worse answer"), ({"text": "Once upon a time."}, "messages", "turns cannot be guessed"),
    ({"text": "<|im_start|>user\nHi<|im_end|>\n"}, "messages", "no turn that is trained"),
    ({"messages": [U, CALL]}, "alpaca", "tool call"), ({"messages": [U, CALL, RESULT, A]}, "alpaca", "tool's result")])
def test_what_a_format_cannot_hold_is_refused(row, to, reason):
    with pytest.raises(RecordError, match=reason): convert_row(row, to)


def test_lossy_rows_can_be_set_aside_instead(tmp_path):
    source = jsonl(tmp_path/"a.jsonl", {"messages": [S, U, A]}, {"messages": [U, A]})
    noted = convert(source, tmp_path/"b.jsonl", to="alpaca")
    assert (noted.good, noted.bad, noted.losses) == (2, 0, {"system": 1})
    strict = convert(source, tmp_path/"c.jsonl", to="alpaca", lossy="reject")
    assert (strict.good, strict.bad, strict.losses, strict.reasons) == (1, 1, {}, {"lost": 1}) and strict.problems[0].detail == LOSSES["system"]
    wide = convert(source, tmp_path/"d.jsonl", to="alpaca", lossy="extend")
    assert (wide.good, wide.losses) == (2, {}) and lines(wide.out)[0]["system"] == "Be brief."


def test_one_file_through_every_format_and_back(tmp_path):
    first = jsonl(tmp_path/"messages.jsonl", *({"messages": [{"role": "user", "content": f"What is {i}+{i}?"}, {"role": "assistant", "content": f"{2*i}"}], "id": i} for i in range(20)))
    before = first.read_text()
    for strings in (False, True):
        path = first
        for i, to in enumerate(["sharegpt", "alpaca", "prompt_completion", "text", "messages"]):
            if strings and to == "text": continue  # two strings become one: that is not undone
            r = convert(path, tmp_path/f"{i}{strings}.jsonl", to=to, strings=strings)
            assert r.ok and not r.losses and r.good == 20 and check(r.out).format == to
            path = r.out
        assert Path(path).read_text() == before


@pytest.mark.parametrize("a", FORMATS)
@pytest.mark.parametrize("b", FORMATS)
def test_every_pair_of_formats_adds_up(tmp_path, a, b):
    source = jsonl(tmp_path/"a.jsonl", GOOD[a], GOOD[a])
    r = convert(source, tmp_path/"b.jsonl", to=b)
    assert (r.rows, r.good + r.bad) == (2, 2)
    impossible = (b == "preference") != (a == "preference") and b == "preference" or a == "text" != b
    assert r.bad == (2 if impossible else 0) and set(r.reasons) == ({"no_turns" if a == "text" else "no_rejected"} if impossible else set())
    if r.good: assert check(r.out).format == b and check(r.out).ok


words = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@st.composite
def talks(draw, system=True, turns=3):
    "A row of messages that is good."
    ms = [{"role": r, "content": draw(words)} for _ in range(draw(st.integers(1, turns))) for r in ("user", "assistant")]
    return {"messages": ([{"role": "system", "content": draw(words)}] if system and draw(st.booleans()) else []) + ms}


@given(talks())
def test_a_good_row_survives_sharegpt_prompt_completion_and_text(row):
    assert not find_problems(row) and to_messages(row) == row
    for to in ("sharegpt", "prompt_completion", "text"):
        new, lost = convert_row(row, to)
        assert recognise(new) == to and not find_problems(new)
        if "markers" not in lost: assert to_messages(new) == row


@given(talks(system=False, turns=1))
def test_a_single_exchange_survives_alpaca_and_strings(row):
    for to, more in (("alpaca", {}), ("prompt_completion", dict(strings=True))):
        new, lost = convert_row(row, to, **more)
        assert not lost and to_messages(new) == row


@given(talks())
def test_a_talk_survives_alpaca_with_more_columns(row):
    new, lost = convert_row(row, "alpaca", extend=True)
    assert not lost and recognise(new) == "alpaca" and to_messages(new) == row


@given(talks(), words, st.booleans())
def test_a_preference_survives_itself(row, other, strings):
    ms = row["messages"]
    if other == ms[-1]["content"]: other += "!"
    pair = {"chosen": ms, "rejected": [*ms[:-1], {"role": "assistant", "content": other}]}
    assert to_messages(pair) == row
    explicit = records._write(pair, records._parse(pair, None)[0], "preference", records._How("preference", strings=strings))
    assert not find_problems(explicit)
    last = explicit["rejected"] if strings else explicit["rejected"][-1]["content"]
    assert last == other


# --- laws -----------------------------------------------------------------------------------------------------------

names = st.sampled_from(["messages", "conversations", "role", "content", "from", "value", "instruction", "input", "output", "prompt", "completion",
                         "chosen", "rejected", "text", "tools", "tool_calls", "system", "history", "function", "name", "arguments", "label", "weight"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["user", "assistant", "human", "gpt", "system", "tool", "function_call", "{}", "[]"])
anything = st.recursive(leaves, lambda c: st.lists(c, max_size=4) | st.dictionaries(names | st.text(max_size=3), c, max_size=5), max_leaves=12)


@settings(max_examples=400)
@given(st.lists(anything, min_size=1, max_size=6), st.sampled_from([None, *FORMATS]))
def test_a_check_never_raises_and_always_adds_up(rows, format):
    r = check(rows, format=format)
    assert r.rows == len(rows) == r.good + r.bad
    assert json.loads(json.dumps(r.to_dict()))["rows"] == len(rows) and str(r) and r._repr_html_()
    assert sum(r.reasons.values()) >= r.bad


@settings(max_examples=300)
@given(st.lists(anything, min_size=1, max_size=4), st.sampled_from(list(FORMATS)), st.booleans(), st.sampled_from(["note", "reject", "extend"]))
@example([{"history": [None], "instruction": "a", "output": "b"}], "messages", False, "note")
def test_a_conversion_never_loses_a_row(tmp_path, rows, to, strings, lossy):
    out = tmp_path/"o.jsonl"
    r = convert(rows, out, to=to, strings=strings, lossy=lossy)
    assert r.rows == len(rows)
    assert r.good == (len(lines(r.out)) if r.out else 0) and r.bad == (len(lines(r.rejected)) if r.rejected else 0)
    if r.out: assert check(r.out, format=to).ok and all(recognise(row) == to for row in lines(r.out)), "what was written is good"
    for f in tmp_path.iterdir(): f.unlink()


@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=300) | st.lists(anything, min_size=1, max_size=4).map(lambda rows: json.dumps(rows).encode()[:-3]),
       st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet", "a"]))
def test_any_bytes_give_a_report_or_one_clear_error(tmp_path, content, name):
    (tmp_path/name).write_bytes(content)
    try: r = check(tmp_path/name)
    except RecordError as e: assert "\n" not in str(e)
    else: assert r.rows == r.good + r.bad > 0


@settings(max_examples=200)
@given(st.lists(talks(), min_size=1, max_size=4), st.integers(0, 400), st.binary(max_size=3))
def test_damage_in_an_array_costs_few_rows(tmp_path, rows, at, junk):
    "One place of the text is overwritten: the rows that are left are still rows that were there."
    text = json.dumps(rows).encode()
    (tmp_path/"a.json").write_bytes(text[:at] + junk + text[at + len(junk):])
    try: got = list(read_rows(tmp_path/"a.json", report=(r := Report("a"))))
    except RecordError: return
    assert r.rows == r.good + r.bad and len(got) == r.good
    if not junk: assert got == rows


@given(st.lists(talks(), min_size=1, max_size=5))
@settings(max_examples=50)
def test_all_kinds_of_file_hold_the_same_rows(tmp_path, rows):
    source = jsonl(tmp_path/"s.jsonl", *rows)
    for kind in (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"):
        r = convert(source, tmp_path/f"o{kind}")
        assert r.ok and list(read_rows(r.out)) == rows, kind


@given(st.lists(talks(), min_size=1, max_size=5), st.sampled_from([None, 1, 2]))
@settings(max_examples=50)
def test_json_is_read_the_same_however_it_is_laid_out(tmp_path, rows, indent):
    (tmp_path/"a.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=bool(indent)), encoding="utf-8")
    assert list(read_rows(tmp_path/"a.json")) == rows
    (tmp_path/"b.json").write_text("\n".join(json.dumps(r, indent=indent) for r in rows))
    assert list(read_rows(tmp_path/"b.json")) == rows


# --- parity ---------------------------------------------------------------------------------------------------------

@given(talks())
@settings(max_examples=50)
def test_sharegpt_is_read_as_trl_reads_it(row):
    from trl.data_utils import maybe_convert_to_chatml
    turns = [{"from": m["role"], "value": m["content"]} for m in row["messages"]]
    assert to_messages({"conversations": turns}) == maybe_convert_to_chatml({"conversations": copy.deepcopy(turns)})


@given(words, words, words)
@settings(max_examples=200)
def test_the_prompt_that_two_texts_share_is_trls(prompt, a, b):
    from trl.data_utils import extract_prompt
    row = {"chosen": f"{prompt} {a}", "rejected": f"{prompt} {b}"}
    if find_problems(row): return
    assert convert_row(row, "preference", strings=True)[0] == extract_prompt(row)


@given(talks(), words)
@settings(max_examples=50)
def test_the_turns_that_two_answers_share_are_trls(row, other):
    from trl.data_utils import extract_prompt
    ms = row["messages"]
    if other == ms[-1]["content"]: other += "!"
    pair = {"chosen": ms, "rejected": [*ms[:-1], {"role": "assistant", "content": other}]}
    talk = records._parse(pair, None)[0]
    assert records._as_preference(talk, records._How("preference")) == extract_prompt(pair)


def test_jsonl_and_parquet_are_read_as_datasets_reads_them(tmp_path):
    import datasets
    rows = [{"messages": [S, {"role": "user", "content": f"{i} é 🙂"}, A], "id": i} for i in range(600)]
    source = jsonl(tmp_path/"s.jsonl", *rows)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path/"s.parquet")
    assert list(read_rows(source)) == list(read_rows(tmp_path/"s.parquet")) == list(datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(tmp_path/"c")))
    convert(source, tmp_path/"o.parquet")
    assert datasets.Dataset.from_parquet(str(tmp_path/"o.parquet"), cache_dir=str(tmp_path/"c")).to_list() == rows


def test_trl_takes_what_convert_writes(tmp_path):
    from trl.data_utils import is_conversational
    source = jsonl(tmp_path/"s.jsonl", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]})
    for to in ("messages", "prompt_completion"): assert is_conversational(lines(convert(source, tmp_path/"o.jsonl", to=to).out)[0])
    assert not is_conversational(lines(convert(source, tmp_path/"o.jsonl", to="prompt_completion", strings=True).out)[0])


# --- sources --------------------------------------------------------------------------------------------------------

def test_rows_come_from_a_dataset_a_generator_and_a_saved_folder(tmp_path):
    import datasets
    ds = datasets.Dataset.from_list([GOOD["messages"]]*3)
    ds.save_to_disk(str(tmp_path/"saved"))
    for source in (ds, ds.to_iterable_dataset(), (r for r in [GOOD["messages"]]*3), tmp_path/"saved"):
        assert list(read_rows(source)) == [GOOD["messages"]]*3


def test_a_folder_laid_out_like_the_hub_is_loaded_by_datasets(tmp_path, monkeypatch):
    (tmp_path/"mine").mkdir()
    jsonl(tmp_path/"mine"/"train.jsonl", GOOD["alpaca"], GOOD["alpaca"]); jsonl(tmp_path/"mine"/"test.jsonl", GOOD["alpaca"])
    assert check(tmp_path/"mine").rows == 2 and check(f"{tmp_path/'mine'}#test").rows == 1
    with pytest.raises(RecordError, match="split 'dev'"): check(f"{tmp_path/'mine'}#dev")


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the Hub as `load_dataset(..., streaming=True)` asks for."
    files = {}
    def log_message(self, *a): pass
    def do_HEAD(self): self.do_GET()
    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self.reply(json.dumps([self.entry(n) for n in self.files if n in wanted]).encode())
    def entry(self, n): return dict(type="file", path=n, size=len(self.files[n]), oid="0"*40)
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if "/tree/" in path: return self.reply(json.dumps([self.entry(n) for n in self.files]).encode())
        if path.startswith("/api/datasets/org/rows"):
            return self.reply(json.dumps(dict(id="org/rows", sha="a"*40, private=False, gated=False, disabled=False, tags=[], downloads=0, likes=0, siblings=[dict(rfilename=n) for n in self.files])).encode())
        name = path.split("/resolve/")[-1].partition("/")[2]
        if name not in self.files: return self.reply(b"", 404, {"X-Error-Code": "EntryNotFound" if "org/rows" in path else "RepoNotFound"})
        self.reply(self.files[name], 200, {"ETag": '"x"', "X-Repo-Commit": "a"*40})
    def reply(self, body, status=200, more={}):
        self.send_response(status)
        for k, v in {"Content-Length": str(len(body)), "Content-Type": "application/json", **more}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)


def test_a_dataset_on_the_hub_is_streamed(tmp_path):
    Hub.files = {"train.jsonl": "".join(json.dumps({**GOOD["sharegpt"], "id": i}) + "\n" for i in range(5)).encode()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | dict(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET="1", NO_PROXY="*", no_proxy="*")
    prog = ("from ftcourse.records import *\nprint([r['id'] for r in read_rows('org/rows', to='messages')])\n"
            "for name in ('org/nothing', 'org/rows#dev'):\n  try: check(name)\n  except RecordError as e: print('RecordError', e)")
    p = subprocess.run([sys.executable, "-c", prog], capture_output=True, text=True, env=env, timeout=120)
    server.shutdown(); server.server_close()
    assert p.returncode == 0, p.stderr
    rows, nothing, dev = p.stdout.strip().splitlines()
    assert rows == "[0, 1, 2, 3, 4]"
    assert nothing.startswith("RecordError 'org/nothing' cannot be loaded") and "split 'dev'" in dev


@pytest.mark.parametrize("source,says", [("no.jsonl", "no such file"), (42, "source is a int"), (b"x", "source is a bytes"), ({"train": []}, "one of its splits"), (None, "source is a NoneType")])
def test_what_is_no_source_is_refused(source, says):
    with pytest.raises(RecordError, match=says): check(source)


# --- dataset_info.json ----------------------------------------------------------------------------------------------

INFO = {
    "a": {"file_name": "a.json", "columns": {"prompt": "question", "query": "context", "response": "answer", "system": "rule", "history": "past"}},
    "drops": {"file_name": "d.json", "columns": {"prompt": "instruction", "response": "output"}},
    "plain": {"file_name": "d.json"},
    "chat": {"file_name": "c.jsonl", "formatting": "sharegpt", "columns": {"messages": "dialogue", "tools": "functions"}, "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "customer", "assistant_tag": "agent", "system_tag": "rule"}},
    "openai": {"file_name": "o.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}},
    "pairs": {"file_name": "p.json", "ranking": True, "columns": {"prompt": "q", "chosen": "better", "rejected": "worse"}},
    "pt": {"file_name": "t.json", "columns": {"prompt": "document"}},
    "many": {"file_name": "folder"},
}


@pytest.fixture
def info(tmp_path):
    "A data folder of LLaMA-Factory's."
    put = lambda name, rows: (tmp_path/name).write_text(json.dumps(rows))
    put("dataset_info.json", INFO)
    put("a.json", [{"question": "Hi", "context": "there", "answer": "Hello!", "rule": "Be brief.", "past": [["a", "b"]]}])
    put("d.json", [{"instruction": "Add", "input": "1+2", "output": "3"}])
    jsonl(tmp_path/"c.jsonl", {"dialogue": [{"who": "rule", "said": "Be brief."}, {"who": "customer", "said": "Hi"}, {"who": "agent", "said": "Hello!"}], "functions": json.dumps(TOOLS)},
          {"dialogue": [{"who": "customer", "said": "Hi"}, {"who": "gpt", "said": "Hello!"}]})
    jsonl(tmp_path/"o.jsonl", {"messages": [S, U, A]})
    put("p.json", [{"q": "Hi", "better": "Hello!", "worse": "What?"}])
    put("t.json", [{"document": "Once upon a time."}])
    (tmp_path/"folder").mkdir(); jsonl(tmp_path/"folder"/"1.jsonl", GOOD["alpaca"]); put("folder/2.json", [GOOD["alpaca"]]*2)
    return tmp_path/"dataset_info.json"


def said(info, name): return [[(m["role"], m["content"]) for m in r["messages"]] for r in read_rows(f"{info}#{name}", to="messages")]


def test_dataset_info_names_columns_and_tags(info):
    assert said(info, "a") == [[("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "Hi\nthere"), ("assistant", "Hello!")]]
    assert said(info, "openai") == [[("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")]]
    assert check(f"{info}#pairs").format == "preference" and check(f"{info}#pt").format == "text" and check(f"{info}#many").rows == 3
    assert check(info.parent/"dataset_info.json#pt").ok and check(f"{info.parent}#pt").ok, "the folder will do"


def test_roles_that_the_tags_do_not_name_are_unknown(info):
    r = check(f"{info}#chat")
    assert (r.good, r.bad) == (1, 1) and r.problems[0].reason == "unknown_role" and r.problems[0].field == "dialogue[1].from"
    first = next(read_rows(f"{info}#chat", to="messages", report=Report("")))
    assert first["tools"] == TOOLS and first["messages"] == [S, U, A]


def test_a_column_that_is_not_named_is_left_out_and_that_is_said(info):
    "LLaMA-Factory's parser sets every column to None once `columns` is given: the input is gone."
    assert said(info, "plain") == [[("user", "Add\n1+2"), ("assistant", "3")]]
    assert said(info, "drops") == [[("user", "Add"), ("assistant", "3")]]
    assert "'input' is not named" in str(check(f"{info}#drops")) and "not named" not in str(check(f"{info}#plain"))


REFERENCE = json.loads((Path(__file__).parent/"reference"/"llamafactory.json").read_text())["cases"]


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: json.dumps(c["info"])[:60])
def test_rows_are_read_as_llama_factory_reads_them(tmp_path, case):
    "tests/reference/llamafactory.py made the record with LLaMA-Factory's own converters. None: it skips the row, with a warning."
    (tmp_path/"d.json").write_text(json.dumps(case["rows"]))
    (tmp_path/"dataset_info.json").write_text(json.dumps({"d": {"file_name": "d.json", **case["info"]}}))
    roles = dict(user="user", assistant="assistant", function="assistant", observation="tool")
    report = Report("")
    good = list(read_rows(tmp_path/"dataset_info.json", to="messages", report=report))
    made = [m for m in case["made"] if m]
    assert (report.good, report.bad) == (len(made), len(case["made"]) - len(made)), str(report)
    for row, m in zip(good, made):
        turns = m["_prompt"] + m["_response"][:1]
        if m["_system"] and case["info"].get("formatting") != "openai": turns = [{"role": "system", "content": m["_system"]}, *turns]
        want = [(roles.get(t["role"], t["role"]), "" if t["role"] == "function" else t["content"]) for t in turns]
        assert [(t["role"], t["content"]) for t in row["messages"]] == want
        for t, ours in zip(turns, row["messages"]):
            if t["role"] == "function": assert [c["function"] for c in ours["tool_calls"]] == [json.loads(t["content"])]
        assert row.get("tools") == (json.loads(m["_tools"]) if m["_tools"] else None)
    assert ("detailed thinking off" in str(report.notes)) == (case["info"].get("formatting") == "openai")


def test_columns_can_be_named_in_place():
    rows = [{"question": "Hi", "answer": "Hello!"}, {"question": "Hi", "answer": ""}]
    r = check(rows, format={"columns": {"prompt": "question", "response": "answer"}})
    assert (r.good, r.problems[0].field) == (1, "answer"), "the problem has the name that the file has"


# --- reading and writing --------------------------------------------------------------------------------------------

def test_read_rows_raises_at_the_first_bad_row_unless_it_may_report(tmp_path):
    source = jsonl(tmp_path/"a.jsonl", GOOD["text"], {"text": ""}, GOOD["text"])
    got = []
    with pytest.raises(RecordError, match=r"row 2 \(line 2\), text: a field is empty\. Fill it in"): got.extend(read_rows(source))
    report = Report("mine")
    assert len(list(read_rows(source, report=report))) == 2 and (report.rows, report.bad) == (3, 1)
    it = read_rows(source)
    assert next(it) == GOOD["text"], "rows before it come through"


def test_a_rejected_row_that_was_mended_is_read_again(tmp_path):
    source = tmp_path/"a.jsonl"
    source.write_text(json.dumps(GOOD["text"]) + '\n{"text": "Hi\n')
    r = convert(source, tmp_path/"b.jsonl", to="text")
    assert r.bad == 1
    mended = lines(r.rejected)
    mended[0]["raw"] += '"}'
    jsonl(tmp_path/"mended.jsonl", *mended)
    assert list(read_rows(tmp_path/"mended.jsonl")) == [{"text": "Hi"}]


@pytest.mark.parametrize("out", ["a.jsonl", "./a.jsonl", "link.jsonl", "hard.jsonl", "a.csv"])
def test_the_input_is_never_overwritten(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    source = jsonl(tmp_path/"a.jsonl", GOOD["text"])
    (tmp_path/"link.jsonl").symlink_to(source); os.link(source, tmp_path/"hard.jsonl")
    if out == "a.csv":  # its file of rejected rows would be the input
        source = jsonl(tmp_path/"a.rejected.jsonl", GOOD["text"])
    before = source.read_bytes()
    with pytest.raises(RecordError, match="is what is read"): convert(source, out, to="text")
    assert source.read_bytes() == before


@pytest.mark.parametrize("more,says", [(dict(to="chatml"), "to is 'chatml'"), (dict(format="openai"), "format is 'openai'"), (dict(lossy="yes"), "lossy is 'yes'"), (dict(format={"formatting": "x"}), "formatting is 'x'")])
def test_wrong_settings_are_refused(tmp_path, more, says):
    with pytest.raises(RecordError, match=says): convert([GOOD["text"]], tmp_path/"o.jsonl", **more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out,says", [("o.txt", "ends in"), (".", "ends in"), ("folder.jsonl", "is a folder"), ("/proc/x/o.jsonl", "cannot be written")])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch, out, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"folder.jsonl").mkdir()
    with pytest.raises(RecordError, match=says): convert([GOOD["text"]], out, to="text")


def test_nothing_is_left_under_the_final_name_if_it_stops_half_way(tmp_path):
    (tmp_path/"o.jsonl").write_text("what was there before")
    def rows():
        yield from [GOOD["text"]]*200
        yield {"text": ""}
        raise KeyboardInterrupt
    for kind in (".jsonl", ".parquet", ".csv"):
        with pytest.raises(KeyboardInterrupt): convert(rows(), tmp_path/f"o{kind}", to="text")
    assert [p.name for p in tmp_path.iterdir()] == ["o.jsonl"] and (tmp_path/"o.jsonl").read_text() == "what was there before"


def test_what_an_entry_describes_or_a_folder_holds_is_the_input_too(info, tmp_path):
    for source, out in ((f"{info}#a", tmp_path/"a.json"), (info.parent/"folder", info.parent/"folder"/"2.json"), (f"{info}#many", info.parent/"folder"/"1.jsonl")):
        before = out.read_bytes()
        with pytest.raises(RecordError, match="is what is read"): convert(source, out)
        assert out.read_bytes() == before


def test_a_format_that_shows_late_is_used_from_there_on(tmp_path):
    rows = [{"q": "?"}]*150 + [GOOD["alpaca"]]*2 + [GOOD["text"]]
    r = convert(rows, tmp_path/"o.jsonl")
    assert (r.format, r.good, r.reasons) == ("alpaca", 2, {"unknown_format": 150, "other_format": 1})


def test_answers_that_are_json_stay_text_in_csv(tmp_path):
    rows = [{"prompt": "As JSON:", "completion": c} for c in ('{"a": 1}', "[1, 2]", '[{"a": 1}]', "[]", "{'a': 1}")]
    r = convert(rows, tmp_path/"o.csv", to="prompt_completion", strings=True)
    assert r.ok and not r.notes and list(read_rows(r.out)) == rows


@given(st.lists(words, min_size=1, max_size=4))
def test_any_text_survives_csv(tmp_path, texts):
    rows = [{"text": t} for t in [*texts, "a\r\nb\rc\nd", '"', ",", ";\t;\t;"]]
    r = convert(rows, tmp_path/"o.csv", to="text")
    assert list(read_rows(r.out, format="text")) == rows


def test_csv_says_what_it_makes_text_of(tmp_path):
    r = convert([{**GOOD["text"], "id": 7, "score": None}], tmp_path/"o.csv", to="text")
    assert "in id, score, comes back as text" in str(r)


def test_a_column_that_would_change_the_format_is_named_as_lost(tmp_path):
    pair = {**GOOD["preference"], "messages": [U, A], "id": 1}
    for to in ("sharegpt", "alpaca", "text"):
        new, lost = convert_row(pair, to)
        assert recognise(new) == to and {"columns", "rejected"} <= lost and new["id"] == 1 and "messages" not in new
    assert convert_row(pair, "preference") == (pair, set())


def test_a_string_without_an_end_does_not_pull_in_the_whole_file(monkeypatch):
    monkeypatch.setattr(records, "_FAR", 200_000)
    class Counted(io.StringIO):
        got = 0
        def read(self, n): part = super().read(n); Counted.got += len(part); return part
    text = '[{"text": "' + "x"*900_000
    with pytest.raises(RecordError, match="line 1 holds a broken row"): list(records._values(Counted(text), {}))
    assert Counted.got < 800_000


def test_old_rejected_rows_do_not_outlive_a_clean_run(tmp_path):
    bad, good = jsonl(tmp_path/"bad.jsonl", GOOD["text"], {"text": ""}), jsonl(tmp_path/"good.jsonl", GOOD["text"])
    assert Path(convert(bad, tmp_path/"o.jsonl", to="text").rejected).exists()
    assert convert(good, tmp_path/"o.jsonl", to="text").rejected is None and not (tmp_path/"o.rejected.jsonl").exists()


def test_tool_arguments_with_different_keys_survive_parquet(tmp_path):
    "Arrow gives all objects of a column the same keys; written as objects, each call would get the other's arguments as null."
    rows = [{"messages": [U, {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": {k: 1}}}]}]} for k in "ab"]
    r = convert(rows, tmp_path/"o.parquet")
    assert [json.loads(row["messages"][1]["tool_calls"][0]["function"]["arguments"]) for row in read_rows(r.out)] == [{"a": 1}, {"b": 1}]


def test_a_column_that_begins_late_is_not_lost_in_parquet(tmp_path):
    rows = [GOOD["text"]]*300 + [{**GOOD["text"], "late": i} for i in range(3)]
    r = convert(rows, tmp_path/"o.parquet", to="text")
    assert [row.get("late") for row in read_rows(r.out)][-3:] == [0, 1, 2]


def test_rows_that_parquet_cannot_hold_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(RecordError, match="write .jsonl instead"): convert([{**GOOD["text"], "x": "a"}, {**GOOD["text"], "x": [1]}], tmp_path/"o.parquet", to="text")
    assert not list(tmp_path.iterdir())


# --- size -----------------------------------------------------------------------------------------------------------

def peak(act):
    "Most bytes that Python held meanwhile."
    tracemalloc.start()
    try: act(); return tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()


@pytest.mark.parametrize("kind", ["jsonl", "json", "jsonl.gz", "csv", "convert", "look"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    row, peaks = {"text": "Hi "*1400}, {}
    for n in (400, 3_000):  # 1.7 MB, 12.6 MB
        source = convert([row]*n, tmp_path/f"{n}.{kind if kind.startswith(('j', 'c')) and kind != 'convert' else 'jsonl'}", to="text").out
        act = dict(convert=lambda: convert(source, tmp_path/"o.jsonl", to="text"), look=lambda: look(source)).get(kind, lambda: check(source))
        act()  # whatever is imported on first use
        peaks[n] = peak(act)
    assert peaks[3_000] - peaks[400] < 400_000, f"{peaks} bytes: the larger file has 11 MB more"


def test_a_large_row_is_not_read_over_and_over(tmp_path):
    "The window doubles: a row of 8 MB takes eight reads, not a hundred and more, each with a new try."
    class Counted(io.StringIO):
        reads = 0
        def read(self, n): Counted.reads += 1; return super().read(n)
    rows = list(records._values(Counted(json.dumps([{"text": "x"*8_000_000}])), {}))
    assert len(rows) == 1 and not rows[0].flaws and Counted.reads < 12


def test_what_follows_an_array_is_kept_to_its_end(tmp_path):
    rest = '{"text": "x"}\n'*20_000
    (tmp_path/"a.json").write_text('[{"text": "Hi"}]\n' + rest)
    r = convert(tmp_path/"a.json", tmp_path/"o.jsonl", to="text")
    assert (r.good, r.bad) == (1, 1) and lines(r.rejected)[0]["raw"].strip() == rest.strip()


def test_a_number_on_a_chunk_border_stays_one_row(tmp_path):
    numbers = [10**(n % 9) for n in range(40_000)]
    (tmp_path/"a.json").write_text(json.dumps(numbers, separators=(",", ":")))
    got = [r.row for r in records._values(open(tmp_path/"a.json"), {})]
    assert got == numbers


def test_a_row_in_the_middle_of_a_chunk_border_is_read_whole(tmp_path):
    "Rows of every length round the size of a chunk, so that each kind of token is cut somewhere."
    rows = [{"text": "é\"\\\n"*(n % 23) + "x"*(n % 7), "n": n, "f": 0.5, "b": True, "z": None} for n in range(3_000)]
    rows = [r if r["text"] else {**r, "text": "x"} for r in rows]
    for ascii in (True, False):
        (tmp_path/"a.json").write_text(json.dumps(rows, ensure_ascii=ascii), encoding="utf-8")
        assert list(read_rows(tmp_path/"a.json")) == rows


def test_the_line_of_a_row_is_the_line_it_begins_on(tmp_path):
    (tmp_path/"a.json").write_text(json.dumps([GOOD["text"], {"text": ""}, GOOD["text"], {"text": ""}], indent=2))
    text = (tmp_path/"a.json").read_text().splitlines()
    for p in check(tmp_path/"a.json").problems: assert text[p.line - 1].strip() == "{"
    (tmp_path/"a.csv").write_text('instruction,output\n"a\nb",c\nd,\n')
    assert check(tmp_path/"a.csv").problems[0].line == 4


def test_csvs_limit_for_others_is_left_alone(tmp_path):
    import csv
    before = csv.field_size_limit()
    (tmp_path/"a.csv").write_text("text\nHi\n")
    check(tmp_path/"a.csv")
    assert csv.field_size_limit() == before


# --- the look, the report -------------------------------------------------------------------------------------------

def test_a_look_counts_roles_turns_and_lengths(tmp_path):
    seen = look([{"messages": [S, U, A]}, {"messages": [U, {"role": "assistant", "content": "Hello there!"}]}, {"messages": [U]}])
    assert (seen.report.good, seen.report.bad, seen.unit) == (2, 1, "characters")
    assert dict(seen.turns) == dict(system=1, user=2, assistant=2) and dict(seen.sizes) == {3: 1, 2: 1}
    assert [r[0] for r in seen.table()] == ["system", "user", "assistant", "row"]
    assert seen.table()[2][3:] == (6, 6, 12, 12)
    assert sum(s for _, _, s, *_ in seen.table()[:-1]) == pytest.approx(1)
    assert "assistant" in str(seen) and "assistant" in seen._repr_html_()
    fig = seen.plot()
    assert len(fig.axes) == 2 and len(look([{"messages": [S, U, A]}]).plot().axes) == 1, "one number of turns makes no picture"


def test_a_look_counts_tokens_with_a_tokenizer():
    from ftcourse.models import toy
    _, tokenizer = toy()
    seen = look([{"messages": [U, A]}], tokenizer=tokenizer)
    assert seen.unit == "tokens" and seen.table()[0][3] == 2, "one token a byte"


def test_a_look_draws_the_same_rows_for_the_same_seed():
    rows = [{"text": f"row {i}"} for i in range(100)]
    a, b, c = (look(rows, seed=s).samples for s in (0, 0, 1))
    assert a == b != c and len(a) == 3


def test_a_look_shows_what_is_in_a_row_as_text_not_as_html():
    seen = look([{"text": "<script>alert(1)</script>"}])
    assert "<script>" not in seen._repr_html_() and "<script>" not in check([{"<script>": 1}])._repr_html_()


def test_a_report_shows_a_few_of_many_problems_and_counts_all():
    r = check([{"text": ""}]*1000 + [GOOD["text"]])
    assert r.reasons["empty_field"] == 1000 and len(r.problems) == 5
    assert str(r).count("row ") < 6 and "1,000 rows" in str(r)
    d = r.to_dict()
    assert d["reasons"]["empty_field"]["rows"] == 1000 and not d["ok"] and d["reasons"]["empty_field"]["remedy"]


@needs_browser
@pytest.mark.browser
def test_the_explorer_writes_rows_as_convert_row_does(browser):
    from ftcourse.explore import explorer
    data = dict(system="You are a shop.", earlier=["Do you have oak trays?", "Yes, at 40 € each."], question="Two, please.", answer="That is 80 €.", worse="No idea.")
    page = browser.new_page()
    page.set_content(explorer("formats", data)._repr_mimebundle_()[0]["text/html"])
    box = page.locator(".ft")
    turn = lambda role, content: {"role": role, "content": content}
    for system, earlier, worse, strings in itertools.product([False, True], repeat=4):
        for name, value in dict(system=system, earlier=earlier, worse=worse, strings=strings).items(): box.locator(f"[data-name={name}] input").set_checked(value)
        before = [turn("system", data["system"])]*system + [turn("user", data["earlier"][0]), turn("assistant", data["earlier"][1])]*earlier + [turn("user", data["question"])]
        answer, bad = turn("assistant", data["answer"]), turn("assistant", data["worse"])
        row = {"prompt": before, "chosen": [answer], "rejected": [bad]} if worse else {"messages": [*before, answer]}
        for to in FORMATS:
            box.locator("select").select_option(to)
            shown, lost = box.locator("pre").inner_text(), box.locator("dd").first.inner_text()
            try: want, losses = convert_row(row, to, strings=strings)
            except RecordError as e: assert "cannot be written" in shown and "no worse answer" in lost and "no worse answer" in str(e); continue
            assert (json.loads(shown), lost) == (want, ", ".join(sorted(losses)) or "nothing"), (to, system, earlier, worse, strings)
    page.close()


def test_the_shortest_rows_are_good():
    for format, row in FORMATS.items(): assert not find_problems(row) and recognise(row) == format


def test_a_conversion_that_begins_while_another_writes_the_same_file_does_not_mix_with_it(tmp_path):
    out = tmp_path/"o.jsonl"
    def rows():
        for i in range(10_000):
            if i == 5_000: assert convert([{"text": "inner"}]*3, out, to="text").good == 3
            yield {"text": "outer"}
    assert convert(rows(), out, to="text").good == 10_000
    assert [json.loads(l)["text"] for l in out.read_text().splitlines()] == ["outer"]*10_000
    assert [f.name for f in tmp_path.iterdir()] == ["o.jsonl"]


# --- found by an attack ---------------------------------------------------------------------------------------------

def test_a_file_of_that_name_that_holds_no_rejected_rows_is_not_replaced(tmp_path):
    (tmp_path/"o.rejected.jsonl").write_text("precious\n")
    with pytest.raises(RecordError, match="is something else, so it is not replaced"): convert([{"text": "Hi"}], tmp_path/"o.jsonl", to="text")
    assert [f.name for f in tmp_path.iterdir()] == ["o.rejected.jsonl"] and (tmp_path/"o.rejected.jsonl").read_text() == "precious\n"


def test_a_file_of_rejected_rows_is_replaced_by_the_next_run(tmp_path):
    out, bad = tmp_path/"o.jsonl", tmp_path/"o.rejected.jsonl"
    convert([{"text": "Hi"}, {"text": ""}], out, to="text")
    assert bad.exists()
    convert([{"text": "Hi"}], out, to="text")
    assert not bad.exists()


@pytest.mark.parametrize("call,says", [
    (lambda d: check([{"text": "Hi"}], format=[]), r"format is \[\]: use one of"), (lambda d: convert([{"text": "Hi"}], d/"o.jsonl", to=None), "to is None: use one of"),
    (lambda d: convert([{"text": "Hi"}], 3), "'3' cannot be the name of a file"), (lambda d: convert([{"text": "Hi"}], "a\0.jsonl"), "a NUL in it"),
    (lambda d: convert([{"text": "Hi"}], "~nosuchuser/o.jsonl"), "cannot be the name of a file"), (lambda d: check("~nosuchuser/o.jsonl"), "cannot be the name of a file"),
    (lambda d: check("a"*5000 + ".jsonl"), "File name too long"), (lambda d: (d/"state.json").write_text("") or check(d), "has a state.json and is no saved Dataset")])
def test_names_and_settings_that_cannot_be_are_one_clear_error(call, says, tmp_path):
    with pytest.raises(RecordError, match=says): call(tmp_path)


def test_a_rejected_row_whose_raw_is_no_text_is_a_row_like_any_other(tmp_path):
    (tmp_path/"a.jsonl").write_text('{"row": 1, "line": 2, "problems": [], "raw": 5, "crc32": 0}\n{"text": "Hi"}\n')
    r = check(tmp_path/"a.jsonl")
    assert (r.rows, r.good, r.bad) == (2, 1, 1)


def test_a_number_too_long_to_write_is_set_aside_with_its_row(tmp_path):
    r = convert([{"text": "Hi", "n": 10**5000}, {"text": "Ho"}], tmp_path/"o.jsonl", to="text")
    assert (r.rows, r.good, r.bad) == (2, 1, 1)


@pytest.mark.parametrize("tail", ["\n"*200_000, "\n "*100_000 + "z", " "*100_000 + "{}" + " "*100_000, '},{"a":'*30_000], ids=["lines", "blanks", "space", "halves"])
def test_a_long_search_for_the_next_row_ends(tail, tmp_path):
    "A search that takes the square of the length would go on for minutes here."
    (tmp_path/"a.json").write_text("[{x" + tail)
    try: r = check(tmp_path/"a.json")
    except RecordError as e: assert "no row was found" in str(e) and str(tmp_path/"a.json") in str(e)
    else: assert r.good == 0 and r.rows == r.bad


def test_rejected_rows_that_somebody_mended_are_not_replaced(tmp_path):
    source, out, bad = tmp_path/"a.jsonl", tmp_path/"o.jsonl", tmp_path/"o.rejected.jsonl"
    source.write_text(json.dumps(GOOD["text"]) + '\n{"text": "Hi\n')
    for _ in range(2): convert(source, out, to="text")  # what nobody touched is replaced
    mended = lines(bad)
    mended[0]["raw"] += '"}'
    jsonl(bad, *mended)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for again in (source, [GOOD["text"]]):  # with bad rows and without
        with pytest.raises(RecordError, match=r"o\.rejected\.jsonl was changed .* is not replaced: move it"): convert(again, out, to="text")
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert list(read_rows(bad.rename(tmp_path/"mended.jsonl"))) == [{"text": "Hi"}]
    assert convert(source, out, to="text").bad == 1


@pytest.mark.parametrize("key,value", [("row", 7), ("line", 7), ("problems", ["mine"]), ("raw", "mine"), ("crc32", 7)])
def test_any_change_to_a_rejected_row_is_seen(tmp_path, key, value):
    bad = Path(convert([GOOD["text"], {"text": "\ud83d"}], tmp_path/"o.jsonl", to="text").rejected)
    assert records._untouched(bad)
    jsonl(bad, {**lines(bad)[0], key: value})
    assert not records._untouched(bad)


@pytest.fixture
def full_disk():
    "No file grows beyond 100,000 bytes."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("row,name", [({"text": "Hi"}, "o"), ({"text": ""}, "o.rejected")])
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path, full_disk, kind, row, name):
    rows = ({**row, "id": os.urandom(200).hex()} for _ in range(1_000))
    says = f"{name}{kind if name == 'o' else '.jsonl'} cannot be written: {os.strerror(errno.EFBIG)}"
    with pytest.raises(RecordError, match=says): convert(rows, tmp_path/f"o{kind}", to="text")
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_source_is_not_blamed_on_the_output(tmp_path):
    def rows():
        yield from [GOOD["text"]]*200
        yield from open(tmp_path/"second.jsonl")
    with pytest.raises(FileNotFoundError, match="second.jsonl"): convert(rows(), tmp_path/"o.jsonl", to="text")
    assert not list(tmp_path.iterdir())


def test_a_problem_names_the_file_where_a_source_has_several(info):
    (info.parent/"folder"/"3.jsonl").write_text(json.dumps(GOOD["alpaca"]) + "\n{\n")
    r = check(f"{info}#many")
    assert (r.rows, r.bad, r.problems[0].file, r.problems[0].line) == (5, 1, "3.jsonl", 2)
    assert "row 5 (3.jsonl, line 2)" in str(r) and r.to_dict()["reasons"]["cut_off"]["examples"][0]["file"] == "3.jsonl"
    (info.parent/"folder"/"2.json").write_text('[{"text": "' + "},{"*20_000)
    with pytest.raises(RecordError, match=r"2\.json: line 1 holds a broken row"): check(f"{info}#many")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv"])
def test_a_line_without_end_is_counted_and_set_aside_and_not_held(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(records, "_LONGEST", 200_000)
    monkeypatch.setattr(records, "MAX_CHARS", 50_000)
    row = b"Hi\n" if kind == "csv" else json.dumps(GOOD["text"]).encode() + b"\n"
    with (gzip.open if kind.endswith("gz") else open)(tmp_path/f"a.{kind}", "wb") as f:
        f.write((b"text\n" if kind == "csv" else b"") + row)
        for _ in range(200): f.write(b"a"*100_000)
        f.write(b"\n" + row)
    r = check(tmp_path/f"a.{kind}")
    assert (r.rows, r.good, r.reasons) == (3, 2, {"too_long": 1}) and r.problems[0].line == (3 if kind == "csv" else 2)
    assert peak(lambda: convert(tmp_path/f"a.{kind}", tmp_path/"o.jsonl", to="text")) < 3_000_000
    (rejected,) = lines(tmp_path/"o.rejected.jsonl")
    assert kind == "csv" or rejected["raw"] == "a"*1000 and "20,000,001 characters on one line" in rejected["problems"][0]


def test_a_line_as_long_as_may_be_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_LONGEST", 1_000)
    for n in range(960, 1_010):
        jsonl(tmp_path/"a.jsonl", {"text": "x"*n}, GOOD["text"])
        r = check(tmp_path/"a.jsonl")
        fits = len(json.dumps({"text": "x"*n})) < 1_000
        assert (r.rows, r.good) == (2, 1 + fits), n


def test_what_cannot_be_written_is_named_and_the_rest_of_its_row_is_kept(tmp_path):
    deep = []
    for _ in range(100_000): deep = [deep]
    r = convert([{"text": "Hi", "n": 10**5000, "id": 1}, {"text": "Ho", "deep": deep, "id": 2}, {"text": "He", "when": {1}, (1, 2): "pair"}], tmp_path/"o.jsonl", to="text")
    assert [json.loads(l["raw"]) for l in lines(r.rejected)] == [
        {"text": "Hi", "n": "a number that cannot be written", "id": 1}, {"text": "Ho", "deep": "a list that cannot be written", "id": 2},
        {"text": "He", "when": "{1}", "(1, 2)": "pair"}]
    assert [(p.row, p.field, p.reason) for p in r.problems if p.row < 3] == [(1, "n", "bad_number"), (2, "deep", "too_deep")]


@pytest.mark.parametrize("ids,results", [("12", "12"), ("12", "21"), ("12", "1-"), ("12", "--"), ("--", "12"), ("-1", "1-"), ("11", "11"), ("--", "-"), ("-", "12")])
def test_calls_that_all_have_their_results_are_good(ids, results):
    "A dash has no id. Without ids one turn may bring the results of several calls, as in ShareGPT."
    one = lambda id: {"function": {"name": "add", "arguments": {}}, **({"id": id} if id != "-" else {})}
    said = [{"role": "tool", "content": "3", **({"tool_call_id": r} if r != "-" else {})} for r in results]
    assert not find_problems({"messages": [U, {"role": "assistant", "content": "", "tool_calls": list(map(one, ids))}, *said, A]})


@pytest.mark.parametrize("ids,results,reason", [("12", "1", "call_without_result"), ("12", "2", "call_without_result"), ("12", "-", "call_without_result"), ("-1", "-", "call_without_result"),
    ("12", "11", "tool_without_call"), ("12", "123", "tool_without_call"), ("1", "2", "tool_without_call")])
def test_a_call_with_an_id_needs_a_result_of_its_own(ids, results, reason):
    one = lambda id: {"function": {"name": "add", "arguments": {}}, **({"id": id} if id != "-" else {})}
    said = [{"role": "tool", "content": "3", **({"tool_call_id": r} if r != "-" else {})} for r in results]
    assert reason in [p.reason for p in find_problems({"messages": [U, {"role": "assistant", "content": "", "tool_calls": list(map(one, ids))}, *said, A]})]


def test_an_id_of_a_kind_that_cannot_be_hashed_is_only_compared():
    row = {"messages": [U, {**CALL, "tool_calls": [{**CALL["tool_calls"][0], "id": [1]}]}, {**RESULT, "tool_call_id": [1]}, A]}
    assert not find_problems(row)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that only Linux has")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_one_line_and_exit_2(tmp_path, more):
    source = jsonl(tmp_path/"a.jsonl", GOOD["text"], {"text": ""})
    with open("/dev/full", "w") as full:
        p = subprocess.run([str(Path(sys.executable).parent/"ftcourse"), "data", "check", str(source), *more], stdout=full, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 2 and p.stderr == f"ftcourse: the answer cannot be written ({os.strerror(errno.ENOSPC)}): send it elsewhere\n"


def test_a_missing_result_is_told_once_and_where_the_talk_goes_on_without_it():
    two = {**CALL, "tool_calls": [*CALL["tool_calls"], {**CALL["tool_calls"][0], "id": "c2"}]}
    assert [(p.field, p.reason, p.detail) for p in find_problems({"messages": [U, two, RESULT, A, U, A]})] == [("messages[3]", "call_without_result", "the id 'c2'")]
