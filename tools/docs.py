"""Build the site into _docs/ from the notebooks: with Quarto where there is one, with smalldocs where there is none.

Both read the same _quarto.yml. Afterwards the same finishing is done to both: pages are named as nbdev's links expect
them, formulas are MathML, and nothing is loaded from another site.

    python tools/docs.py [--engine quarto|smalldocs]
"""
import argparse, json, os, re, shutil, subprocess, sys
from pathlib import Path

from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from nbdev.serve import proc_nbs

ROOT = Path(__file__).resolve().parent.parent
PROC, SITE = ROOT/"_proc", ROOT/"_docs"
OFFSITE = re.compile(r"^(https?:)?//")


def render(engine):
    "Notebooks -> HTML, in _proc/_docs."
    cmd = {"quarto": ["quarto", "render", "--no-cache"], "smalldocs": [sys.executable, "-m", "smalldocs.cli", "render", "."]}[engine]
    p = subprocess.run(cmd, cwd=PROC, text=True, capture_output=True)
    if p.returncode: raise SystemExit(f"{' '.join(cmd)} failed:\n{p.stdout[-3000:]}{p.stderr[-3000:]}")
    if trouble := [l for l in (p.stdout + p.stderr).splitlines() if "broken link" in l]: raise SystemExit("\n".join(trouble))


def new_names(site):
    "`01_models.html` -> `models.html`, which is where nbdev's links point; Quarto has done so already."
    return {p.name: re.sub(r"^\d+[a-zA-Z]?_", "", p.name) for p in site.rglob("*.html") if re.match(r"\d+[a-zA-Z]?_", p.name)}


def rename(site):
    "Give pages their names without numbers, and mend everything that points to them."
    names = new_names(site)
    if clash := {n for n in names.values() if list(names.values()).count(n) > 1}: raise SystemExit(f"two pages would be {clash}: stems must be unique")
    old = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
    for p in [*site.rglob("*.html"), *site.rglob("*.json"), *site.rglob("*.xml"), *site.rglob("*.txt")]:
        if "site_libs" in p.parts: continue
        text = p.read_text(encoding="utf-8")
        p.write_text(old.sub(lambda m: names[m.group()], text), encoding="utf-8")
    for p in list(site.rglob("*.html")):
        if p.name in names: p.rename(p.with_name(names[p.name]))


def mathml(soup):
    r"Formulas as MathML: `\(x\)` in `span.math`, readable without any JavaScript."
    for span in soup.select("span.math"):
        if span.find("math"): continue
        tex = span.get_text().strip()
        tex = re.sub(r"^(\\\(|\\\[|\$\$?)|(\\\)|\\\]|\$\$?)$", "", tex).strip()
        out = BeautifulSoup(convert(tex, display="block" if "display" in span.get("class", []) else "inline"), "html.parser")
        span.clear(); span.append(out)


def keep_local(soup):
    "Drop scripts and stylesheets from elsewhere: a page must work offline and tell nobody that it is read."
    for tag, attr in (("script", "src"), ("link", "href")):
        for t in soup.find_all(tag):
            stylesheet = tag == "script" or {"stylesheet", "preconnect", "preload"} & set(t.get("rel") or [])
            if OFFSITE.match(t.get(attr) or "") and stylesheet: t.decompose()
    for s in soup.find_all("script", src=None):  # the inline call that starts the formula renderer
        if s.string and "renderMathInElement" in s.string: s.decompose()


def plain_signatures(soup):
    "nbdev links names also in the comments of a signature, where a page shows the link as source."
    for s in soup.find_all(string=re.compile(r"\]\(https?:")):
        if s.find_parent("pre"): s.replace_with(re.sub(r"\[(`[^`]+`)\]\(https?:[^)]*\)", r"\1", s))


def finish(site):
    rename(site)
    for p in site.rglob("*.html"):
        soup = BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser")
        keep_local(soup); mathml(soup); plain_signatures(soup)
        for img in soup.select(".cell-output img, .cell img"):  # fig-alt becomes the alternative text
            if not img.get("alt"): img["alt"] = "Figure; its caption and the text around it say what it shows."
        for d in soup.select("details[open]"):  # Quarto folds these too: the signature above says what a reader needs
            if "Exported source" in d.get_text()[:40]: del d["open"]
        p.write_text(str(soup), encoding="utf-8")
    for p in site.rglob("*.css"):
        css = p.read_text(encoding="utf-8")
        p.write_text(re.sub(r'@import\s+(url\()?["\']?(https?:)?//[^;]*;', "", css), encoding="utf-8")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--engine", choices=["quarto", "smalldocs"], default="quarto" if shutil.which("quarto") else "smalldocs")
    engine = ap.parse_args().engine
    os.chdir(ROOT)
    shutil.rmtree(PROC, ignore_errors=True)
    proc_nbs(force=True, n_workers=0)
    render(engine)
    finish(PROC/"_docs")
    shutil.rmtree(SITE, ignore_errors=True)
    (PROC/"_docs").rename(SITE)
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE.name}/, built with {engine}")


if __name__ == "__main__": main()
