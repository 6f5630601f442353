"""Run a lesson from start to end without a browser, showing in the terminal what a reader would see appear.

    python tools/run_lesson.py nbs/00_quickstart.ipynb              # run it, keep nothing
    python tools/run_lesson.py --save nbs/01_models.ipynb …         # run it and save its outputs, cleaned

A picture that is redrawn while a cell runs appears as one line of text that is rewritten in place: its text/plain.
"""
import argparse, json, os, re, sys, time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
FLAGS = {"gpu", "slow", "network"}
VIEW = "application/vnd.jupyter.widget-view+json"


def gated(cell, force):
    "Whether settings.ini's test flags keep this cell from running."
    found = set(re.findall(r"^#\|\s*(\w+)\s*$", cell.source, re.M)) & FLAGS
    return bool(found - force)


class Runner(NotebookClient):
    "A notebook client that relays streams and redrawn outputs to the terminal."

    def process_message(self, msg, cell, cell_index):
        kind, content = msg["header"]["msg_type"], msg["content"]
        if kind == "stream": sys.stdout.write(content["text"]); sys.stdout.flush()
        elif kind == "update_display_data": self._line(content["data"].get("text/plain", ""))
        return super().process_message(msg, cell, cell_index)

    def _line(self, text):
        end = "\r" if sys.stdout.isatty() else "\n"
        sys.stdout.write(f"  {text}\x1b[K{end}" if sys.stdout.isatty() else f"  {text}{end}"); sys.stdout.flush()


def tidy(nb):
    "Drop what differs from run to run: counts, timings, widget views, ids of displays."
    nb.metadata.pop("widgets", None)
    for c in nb.cells:
        c.metadata = {}
        if c.cell_type != "code": continue
        c.execution_count, outs = None, []
        for o in c.outputs:
            if o.output_type == "error": raise SystemExit(f"an error output: {o.ename}: {o.evalue}")
            if VIEW in o.get("data", {}):                   # a live widget has nothing to show without its kernel …
                if "text/html" not in o.data: continue
                del o.data[VIEW]                            # … but an explorer brings a page of its own
            if o.output_type == "stream" and o.name == "stderr": continue
            o.pop("execution_count", None)
            if o.output_type == "execute_result": o.execution_count = None
            o.get("metadata", {}).clear(); o.pop("transient", None)
            data = o.get("data", {})
            if any(k.startswith("image/") or k == "text/html" for k in data): data["text/plain"] = data.get("text/plain", "").split(" at 0x")[0]
            outs.append(o)
        c.outputs = outs


def run(path, save, force, cwd):
    nb = nbformat.read(path, as_version=4)
    kept = {i: c for i, c in enumerate(nb.cells) if c.cell_type == "code" and gated(c, force)}
    todo = nbformat.from_dict(nb); todo.cells = [c for i, c in enumerate(nb.cells) if i not in kept]
    heading = lambda c: next((l.lstrip("# ") for l in c.source.splitlines() if re.match(r"#{1,2} ", l)), None)
    start = time.perf_counter()
    def on_start(cell, cell_index):
        if cell.cell_type == "markdown" and (h := heading(cell)): print(f"\n[{time.perf_counter() - start:5.0f} s] {h}", flush=True)
    client = Runner(todo, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(cwd)}}, on_cell_start=on_start,
                    extra_arguments=["--IPKernelApp.log_level=40"])
    try: client.execute()
    except CellExecutionError as e: raise SystemExit(re.sub(r"\x1b\[[0-9;]*m", "", f"\n{path} stopped:\n{e}"))
    print(f"\n[{time.perf_counter() - start:5.0f} s] {path}: done", flush=True)
    if save:
        for i, c in kept.items(): todo.cells.insert(i, c)
        tidy(todo)
        tmp = Path(path).with_suffix(".ipynb.tmp")
        tmp.write_text(nbformat.writes(todo, version=4) + "\n", encoding="utf-8")  # a line of JSON for a line of code
        tmp.replace(path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("notebook", nargs="+", type=Path)
    p.add_argument("--save", action="store_true", help="save the outputs into the notebook")
    p.add_argument("--flags", default="", help="test flags to run as well: gpu slow network")
    p.add_argument("--summary", type=Path, help="a report.json: print its summary as the last line")
    a = p.parse_args()
    os.environ["FTCOURSE_FLAGS"] = a.flags  # what the cells themselves ask: in Jupyter, where "Run All" runs gated cells too, it is empty
    for nb in a.notebook: run(nb, a.save, set(a.flags.split()), nb.resolve().parent)
    if a.summary: print(json.loads(a.summary.read_text(encoding="utf-8"))["summary"])


if __name__ == "__main__": main()
