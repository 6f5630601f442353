"""House rules that a machine can check; each message says what to do."""
import ast, json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS, PKG, FLAGS = ROOT/"nbs", "ftcourse", {"gpu", "slow", "network"}


def cells(p): return json.loads(p.read_text(encoding="utf-8"))["cells"]
def src(c): return "".join(c["source"])
def dirs(c): return {m.group(1) for m in re.finditer(r"^#\|\s*([\w-]+)", src(c), re.M)}
def code(c): return "\n".join(l for l in src(c).splitlines() if not l.lstrip().startswith(("%", "!")))
def has_import(c): return any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(ast.parse(code(c))))
def exported(c): return bool(dirs(c) & {"export", "exports", "exporti"})
def module_of(p): return next((m.group(1) for c in cells(p) for m in [re.search(r"^#\|\s*default_exp\s+(\S+)", src(c), re.M)] if m), None)


notebooks = sorted(p for p in [*NBS.glob("*.ipynb"), *NBS.glob("solutions/*.ipynb")] if not p.name.startswith("_"))
lessons = [p for p in notebooks if p.parent == NBS and p.name != "index.ipynb"]
code_cells = [(p, i, c) for p in notebooks for i, c in enumerate(cells(p)) if c["cell_type"] == "code" and src(c).strip()]
ids = [f"{p.stem}[{i}]" for p, i, _ in code_cells]


@pytest.mark.parametrize("p,i,c", code_cells, ids=ids)
def test_cell(p, i, c):
    d = dirs(c)
    loc = [l for l in code(c).splitlines() if l.strip() and not l.lstrip().startswith("#|")]
    assert len(loc) <= (40 if exported(c) else 15), f"{len(loc)} lines: split the cell"
    long = [l for l in src(c).splitlines() if len(l) > 110 and not l.startswith("#|")]
    assert not long or "Markdown(f" in src(c), f"over 110 characters, break it: {long}"
    if module_of(p):
        if d & FLAGS: assert not has_import(c) and not exported(c), "a gated cell with an import or an export still runs when docs are built"
        if has_import(c) and not exported(c) and "eval" not in d:
            other = [n for n in ast.parse(code(c)).body if not isinstance(n, (ast.Import, ast.ImportFrom))]
            assert not other, "imports alone in their cell: docs runs every cell that contains one"
    if "slow" in d: assert code(c).startswith("#| slow\nif RUN_SLOW:"), "begin with `if RUN_SLOW:`, or \"Run All\" in Jupyter takes as long as the record did and overwrites it"
    if exported(c): assert not re.search(r"^\s*from \S+ import \*", code(c), re.M), "no star import in exported code"
    assert c.get("execution_count") is None, "run nbdev_clean"
    assert isinstance(c["source"], list), "one JSON line for each line of code, or diffs cannot be read: make run"
    out = json.dumps(c.get("outputs", []))
    assert not re.search(r"/home/|/Users/|/root/|/tmp/|\bit/s\b|widget-view", out), "path, progress bar or widget in a saved output"
    assert not any(o["output_type"] == "error" for o in c.get("outputs", [])), "a saved output is an error"
    text = "".join("".join(o.get("text", [])) for o in c.get("outputs", []))
    assert len(text.splitlines()) <= 60, "over 60 lines of output: show less"


@pytest.mark.parametrize("p", lessons, ids=[p.stem for p in lessons])
def test_lesson_has_its_parts(p):
    md = "\n".join(src(c) for c in cells(p) if c["cell_type"] == "markdown")
    assert re.match(r"# .+\n\n> .+", src(cells(p)[0])), "open with a title and a one-line contract: `# Title`, blank, `> contract`"
    for part in ("## What you can now do", "## Sources"): assert part in md, f"{part} is missing"
    assert "CPU" in src(cells(p)[0]), "say in the first cell what the lesson costs"


@pytest.mark.parametrize("p", lessons, ids=[p.stem for p in lessons])
def test_lesson_shows_what_it_prints(p):
    "A lesson whose last expressions have no saved outputs was never run and saved."
    shows = [i for i, c in enumerate(cells(p)) if c["cell_type"] == "code" and "print(" in src(c) and not exported(c)
             and not dirs(c) & (FLAGS | {"hide", "eval"}) and re.search(r"^(for .*|print\(.*)", src(c), re.M)]
    bare = [i for i in shows if not cells(p)[i].get("outputs")]
    assert not bare, f"cells {bare} print, and no output is saved: make run LESSONS=nbs/{p.name}"


def test_stem_is_module():
    for p in lessons:
        m = module_of(p)
        if m: assert re.fullmatch(rf"\d\d_{m}", p.stem), f"{p.name} exports {m}: the stem must be NN_{m}"


def test_stems_unique():
    stems = [re.sub(r"^\d+[a-zA-Z0-9]*_", "", p.stem) for p in notebooks]
    assert len(stems) == len(set(stems)), "nbdev drops the number: two pages would overwrite each other"


def imports(path):
    "Modules of this package that a file imports, at the top or inside functions."
    for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(n, ast.ImportFrom) and (n.level or (n.module or "").startswith(PKG + ".")): yield (n.module or "").removeprefix(PKG + ".")
        if isinstance(n, ast.Import): yield from (a.name.removeprefix(PKG + ".") for a in n.names if a.name.startswith(PKG + "."))


def test_imports_point_backwards():
    order = [m for m in map(module_of, lessons) if m]
    for m in order:
        for dep in filter(None, imports(ROOT/PKG/f"{m}.py")):  # "" is the package itself: its version
            assert order.index(dep) < order.index(m), f"{m} imports {dep}, which comes later"


def test_every_public_name_is_documented():
    for m in filter(None, map(module_of, lessons)):
        tree = ast.parse((ROOT/PKG/f"{m}.py").read_text(encoding="utf-8"))
        for n in tree.body:
            if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_"):
                assert ast.get_docstring(n), f"{m}.{n.name} has no docstring"
                if isinstance(n, ast.FunctionDef):
                    a = n.args
                    assert len(a.args) + len(a.kwonlyargs) <= 6, f"{m}.{n.name} has over six parameters: make a dataclass"
                    assert not a.kwarg or n.decorator_list, f"{m}.{n.name} passes **kwargs through"


def test_lessons_have_solutions_and_use_every_checker():
    "Each `check_*` is attempted in a lesson and satisfied in a solution."
    tree = ast.parse((ROOT/PKG/"checks.py").read_text(encoding="utf-8"))
    checkers = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("check_")}
    attempted = set(re.findall(r"attempt\((check_\w+)", "\n".join(src(c) for p in lessons for c in cells(p))))
    solved = set(re.findall(r"^(check_\w+)\(", "\n".join(src(c) for p in notebooks if p.parent.name == "solutions" for c in cells(p)), re.M))
    assert checkers <= attempted, f"{checkers - attempted} are attempted in no lesson"
    assert checkers <= solved, f"{checkers - solved} have no solution"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The project's notebooks, package and settings, elsewhere."
    d = tmp_path_factory.mktemp("copy")
    for name in ("nbs", PKG): shutil.copytree(ROOT/name, d/name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "nbdev.yml"))
    for name in ("settings.ini", "pyproject.toml", "_quarto.yml", "README.md"): shutil.copy(ROOT/name, d)
    subprocess.run(["git", "init", "-q"], cwd=d, check=True)
    return d


def contents(d): return {p.relative_to(d): p.read_bytes() for sub in ("nbs", PKG) for p in (d/sub).rglob("*")
                         if p.is_file() and "__pycache__" not in p.parts and p.name not in ("nbdev.yml", "sidebar.yml")}


@pytest.mark.parametrize("command", ["nbdev_clean", "nbdev_export"])
def test_clean_and_export_change_nothing(copy, command):
    before = contents(copy)
    subprocess.run([str(Path(sys.executable).parent/command)], cwd=copy, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(copy)})
    after = contents(copy)
    changed = sorted(str(k) for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    assert not changed, f"{command} changes {changed}: run it and commit"


def test_readme_is_in_step():
    p = subprocess.run([sys.executable, "tools/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
