"""README.md from nbs/index.ipynb: its prose and its saved outputs, without the code that made them.

Links to notebooks stay links to notebooks, which GitHub shows. Pictures go to README_files/.

    python tools/readme.py            # write
    python tools/readme.py --check    # exit 1 if README.md is not what would be written
"""
import argparse, re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HEAD = "<!-- Made from nbs/index.ipynb by `make readme`. Edit the notebook. -->\n\n"


def build():
    "(text of README.md, {file name: bytes})"
    nb = nbformat.read(ROOT/"nbs"/"index.ipynb", as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type == "markdown" or c.outputs]
    exporter = MarkdownExporter(exclude_input=True)
    text, res = exporter.from_notebook_node(nb, resources={"output_files_dir": "README_files", "unique_key": "figure"})
    text = re.sub(r"\]\((?!https?:|#|README_files)([\w/]+\.(?:ipynb|md|json|svg))", r"](nbs/\1", text)
    text = re.sub(r"^> (.*)$", r"\1", text, count=1, flags=re.M)      # the subtitle is a sentence here
    text = re.sub(r"!\[png\]\((.*?)\)", r"![An order e-mail, the base model's answer and the tuned model's answer](\1)", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return HEAD + text, res.get("outputs", {})


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true")
    text, pictures = build()
    readme = ROOT/"README.md"
    if ap.parse_args().check:
        same = readme.exists() and readme.read_text(encoding="utf-8") == text and all((ROOT/k).exists() and (ROOT/k).read_bytes() == v for k, v in pictures.items())
        sys.exit(0 if same else "README.md is not in step with nbs/index.ipynb: make readme")
    readme.write_text(text, encoding="utf-8")
    for name, data in pictures.items():
        (ROOT/name).parent.mkdir(exist_ok=True); (ROOT/name).write_bytes(data)


if __name__ == "__main__": main()
