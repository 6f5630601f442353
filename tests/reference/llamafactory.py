"""What LLaMA-Factory 0.9.5 makes of rows and entries of dataset_info.json; writes tests/reference/llamafactory.json.

    pip download --no-deps llamafactory==0.9.5 && unzip -d wheel llamafactory-0.9.5-*.whl && python tests/reference/llamafactory.py wheel

Only its parser and its converters are loaded, with its logger replaced, so that none of its dependencies is needed."""
import importlib.util, json, sys, types
from pathlib import Path

SG = lambda *pairs, **more: {"conversations": [{"from": f, "value": v} for f, v in pairs], **more}
TOOLS = json.dumps([{"name": "add", "parameters": {}}])
CALL = json.dumps({"name": "add", "arguments": {"a": 1}})
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
M = lambda *pairs, **more: {"messages": [{"role": r, "content": c} for r, c in pairs], **more}

CASES = [  # entry of dataset_info.json without its file, rows
    ({}, [{"instruction": "Hi", "input": "", "output": "Hello!"}, {"instruction": "Add", "input": "1+2", "output": "3"}]),
    ({"columns": {"prompt": "instruction", "response": "output"}}, [{"instruction": "Add", "input": "1+2", "output": "3"}]),
    ({"columns": {"prompt": "q", "query": "c", "response": "a", "system": "s", "history": "h", "tools": "t"}},
     [{"q": "Hi", "c": "there", "a": "Hello!", "s": "Be brief.", "h": [["a", "b"], ["c", "d"]], "t": TOOLS}, {"q": "Hi", "c": "", "a": "Hello!", "s": "", "h": [], "t": ""}]),
    ({"ranking": True, "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}},
     [{"instruction": "Hi", "input": "there", "chosen": "Hello!", "rejected": "What?"}]),
    ({"formatting": "sharegpt"}, [
        SG(("human", "Hi"), ("gpt", "Hello!")), SG(("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello!"), ("human", "Bye"), ("gpt", "Bye!")),
        SG(("human", "1+2?"), ("function_call", CALL), ("observation", "3"), ("gpt", "3")),
        SG(("gpt", "Hello!"), ("human", "Hi")), SG(("human", "Hi"), ("human", "Hi?"), ("gpt", "Hello!")), SG(("human", "Hi")), SG(("human", "Hi"), ("gpt", "Hello!"), ("human", "Bye"))]),
    ({"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "rule", "tools": "tools"}},
     [SG(("human", "Hi"), ("gpt", "Hello!"), rule="Be brief.", tools=TOOLS), SG(("human", "Hi"), ("gpt", "Hello!"), rule="", tools="")]),
    ({"formatting": "sharegpt", "columns": {"messages": "conversations"}}, [SG(("human", "Hi"), ("gpt", "Hello!"), system="Be brief.")]),
    ({"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI}, [M(("user", "Hi"), ("assistant", "Hello!")), M(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"))]),
    ({"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": {**OPENAI, "user_tag": "human"}}, [M(("user", "Hi"), ("assistant", "Hello!")), M(("human", "Hi"), ("assistant", "Hello!"))]),
    ({"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": {k: v for k, v in OPENAI.items() if k != "system_tag"}}, [M(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"))]),
    ({"formatting": "openai", "columns": {"messages": "messages"}, "tags": {**OPENAI, "observation_tag": "tool", "function_tag": "function"}}, [M(("user", "Hi"), ("assistant", "Hello!"))]),
    ({"formatting": "sharegpt", "ranking": True, "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
     [SG(("human", "Hi"), chosen={"from": "gpt", "value": "Hello!"}, rejected={"from": "gpt", "value": "What?"})]),
]


def load(wheel, name):
    "A module of the wheel, without the rest of the package."
    full = f"llamafactory.data.{name}"
    spec = importlib.util.spec_from_file_location(full, Path(wheel)/f"llamafactory/data/{name}.py")
    m = sys.modules[full] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m


def main(wheel):
    for name in ("llamafactory", "llamafactory.data", "llamafactory.extras"): sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = []
    logging = types.ModuleType("llamafactory.extras.logging")
    logging.get_logger = lambda name: types.SimpleNamespace(warning_rank0=lambda *a: None, warning_rank0_once=lambda *a: None)
    constants = types.ModuleType("llamafactory.extras.constants"); constants.DATA_CONFIG = "dataset_info.json"
    misc = types.ModuleType("llamafactory.extras.misc"); misc.use_modelscope = misc.use_openmind = lambda: False
    for m in (logging, constants, misc): sys.modules[m.__name__] = m; setattr(sys.modules["llamafactory.extras"], m.__name__.split(".")[-1], m)
    load(wheel, "data_utils")
    parser, converter = load(wheel, "parser"), load(wheel, "converter")
    out = []
    for info, rows in CASES:
        attr, = parser.get_dataset_list(["d"], {"d": {"file_name": "d.json", **info}})
        convert = converter.get_dataset_converter(attr.formatting, attr, None)
        got = []
        for row in rows:
            made = convert(row)
            got.append(None if not made["_prompt"] else {k: [dict(t) for t in v] if isinstance(v, list) else v for k, v in made.items() if k in ("_prompt", "_response", "_system", "_tools")})
        out.append(dict(info=info, rows=rows, made=got))
    json.dump(dict(version="0.9.5", cases=out), open(Path(__file__).with_suffix(".json"), "w"), indent=1)


if __name__ == "__main__": main(sys.argv[1])
