"""The project's files agree with each other, and hold nothing that should stay at home."""
import configparser, re, subprocess, tomllib

import pytest
from packaging.requirements import Requirement

def settings(root):
    c = configparser.ConfigParser(interpolation=None); c.read(root/"settings.ini"); return c["DEFAULT"]
def project(root): return tomllib.loads((root/"pyproject.toml").read_text(encoding="utf-8"))
def tracked(root):
    out = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [root/f for f in out.split("\0") if f and (root/f).is_file()]
def pins(root): return {r.name.lower().replace("_", "-"): r for r in map(Requirement, (l for l in (root/"constraints.txt").read_text().splitlines() if l and l[0] != "#"))}


def test_every_direct_dependency_is_pinned(root):
    p = project(root)["project"]
    need = [Requirement(r) for r in [*p["dependencies"], *p["optional-dependencies"]["dev"]]]
    have = pins(root)
    for r in need:
        pin = have.get(r.name.lower().replace("_", "-"))
        assert pin, f"{r.name} is not in constraints.txt"
        assert r.specifier.contains(str(pin.specifier).removeprefix("==")), f"constraints.txt pins {pin}, pyproject.toml wants {r}"


def test_what_is_installed_is_what_is_pinned(root):
    from importlib.metadata import PackageNotFoundError, version
    for name, pin in pins(root).items():
        try: got = version(name)
        except PackageNotFoundError: continue
        assert pin.specifier.contains(got.split("+")[0]), f"{name} {got} is installed, constraints.txt says {pin}: make install"


def test_settings_and_pyproject_agree(root):
    s, p = settings(root), project(root)["project"]
    assert s["lib_name"] == p["name"] and s["description"] == p["description"] and f">={s['min_python']}" == p["requires-python"]
    assert s["dev_requirements"].split() == p["optional-dependencies"]["dev"][:6]
    from ftcourse import __version__
    assert s["version"] == __version__
    assert s["tst_flags"].split() == ["gpu", "slow", "network"]


def test_the_packages_the_course_is_about_are_used(root):
    text = "\n".join(f.read_text(encoding="utf-8") for f in tracked(root) if f.suffix in (".ipynb", ".py"))
    for name in ("torch", "transformers", "peft", "trl", "datasets", "matplotlib", "ipywidgets"):
        assert re.search(rf"(import|from) {name}\b", text), f"{name} is a dependency that nothing uses"
    assert "BitsAndBytesConfig" in text


def test_links_to_the_repository_follow_the_settings(root):
    url = settings(root)["git_url"].removeprefix("https://github.com/")
    for f in tracked(root):
        if f.suffix not in (".ipynb", ".md", ".yml", ".toml"): continue
        for found in re.findall(r"github\.com/(ftcourse/\w+|[\w-]+/ftcourse)", f.read_text(encoding="utf-8")): assert found == url, f"{f.name}: {found}"


def test_no_secret_and_no_path_of_a_machine(root):
    secret = re.compile(r"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|/home/[a-z]\w+/|/Users/[A-Za-z]\w+/")
    for f in tracked(root):
        if f.suffix in (".png",) or f.name == "test_project.py": continue
        m = secret.search(f.read_text(encoding="utf-8", errors="replace"))
        assert not m, f"{f.name} holds {m.group()!r}"


def test_nothing_runs_code_that_comes_with_a_model(root):
    for f in tracked(root):
        if f.suffix != ".py" or f.parent.name == "tests": continue
        text = f.read_text(encoding="utf-8")
        assert not re.search(r"trust_remote_code\s*=\s*True|pickle\.load|torch\.load\((?!.*weights_only=True)", text), f.name


@pytest.mark.parametrize("target", ["quickstart", "test", "test-fast", "lab", "docs", "bench", "install", "clean", "help"])
def test_make_has_the_targets_the_readme_names(root, target):
    out = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  make {target} ", out, re.M)
