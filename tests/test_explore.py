"""Explorers: the same object in Jupyter and on a page, and its arithmetic is Python's."""
import os, re

import pytest
from ftcourse.explore import explorer
from web import needs_browser, pages

SET = """([input, value]) => { input.value = value; input.dispatchEvent(new Event(input.tagName === 'SELECT' ? 'change' : 'input', {bubbles: true})); }"""


def readout(box): return dict(zip(box.locator("dt").all_inner_texts(), box.locator("dd").all_inner_texts()))
def choose(box, name, value): box.evaluate(f"(e, v) => ({SET})([e.querySelector(`[data-name=\"{name}\"] :is(input, select)`), v])", value)


def test_an_unknown_explorer_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="no explorer 'nonsense': there are .*schedule"): explorer("nonsense")


@pytest.mark.parametrize("data", [dict(x=float("nan")), dict(x=float("inf")), dict(x={1, 2})])
def test_data_that_json_cannot_hold_is_refused(data):
    with pytest.raises(ValueError, match="must be JSON"): explorer("schedule", data)


def test_both_ways_of_showing_are_in_the_output():
    bundle, _ = explorer("schedule", dict(peak=1e-3, steps=20, warmup=2, note="</script><b>"))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    html = bundle["text/html"]
    assert html.count("</script>") == 1 and html.rstrip().endswith("</script>"), "data must not be able to end the script"


def test_settings_of_two_explorers_are_their_own():
    a, b = explorer("schedule"), explorer("schedule")
    a.settings = dict(steps=7)
    assert b.settings == {}


@needs_browser
@pytest.mark.browser
def test_every_control_of_every_explorer_moves_its_numbers(served, browser):
    "Drag every slider to both ends, try every option: something changes each time, and no number is missing."
    page, errors, found = browser.new_page(), [], 0
    page.on("pageerror", lambda e: errors.append(str(e)))
    for name in pages():
        page.goto(f"{served}/{name}", wait_until="networkidle")
        for box in page.locator(".ft").all():
            found += 1
            for control in box.locator("input[type=range], select, input[type=checkbox]").all():
                seen, label = set(), control.evaluate("e => e.parentElement.innerText")
                kind = control.evaluate("e => e.type")
                if kind == "checkbox": values = [None, None]
                elif kind == "range": values = control.evaluate("e => [e.min, e.max]")
                else: values = control.evaluate("e => [...e.options].map(o => o.value)")
                start = control.evaluate("e => e.value")
                for v in values:
                    if v is None: control.click()
                    else: control.evaluate(f"(e, v) => ({SET})([e, v])", v)
                    state = box.inner_text() + "".join(box.locator("path, rect, circle").evaluate_all("es => es.map(e => e.getAttribute('d') || ['x','y','width','height','cx','cy'].map(a => e.getAttribute(a)).join())"))
                    assert not re.search(r"NaN|undefined|Infinity|∞", state), f"{name}, {label} = {v}: {box.inner_text()[:300]}"
                    seen.add(state)
                assert len(seen) > 1, f"{name}: {label} changes nothing"
                if kind != "checkbox": control.evaluate(f"(e, v) => ({SET})([e, v])", start)
        assert not errors, f"{name}: {errors}"
    assert found >= 1


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_the_schedule_is_that_of_transformers(served, browser, kind):
    import torch
    from transformers import get_scheduler
    page = browser.new_page()
    page.goto(f"{served}/explore.html", wait_until="networkidle")
    box = page.locator(".ft").first
    for name, value in dict(kind=kind, steps=60, warmup=10).items(): choose(box, name, str(value))
    got = readout(box)
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    kwargs = {} if kind == "constant_with_warmup" else dict(num_training_steps=60)
    schedule, rates = get_scheduler(kind, opt, num_warmup_steps=10, **kwargs), []
    for _ in range(60): rates.append(schedule.get_last_lr()[0]); opt.step(); schedule.step()
    want = {"first step": rates[0], "last step": rates[-1], "mean rate": sum(rates)/60, "furthest a weight can drift, about": sum(rates)}
    assert {k: float(v) for k, v in got.items()} == pytest.approx(want, rel=.05, abs=1e-12)
    assert float(got["mean rate"]) == pytest.approx(sum(rates)/60, rel=6e-3), "three digits are shown"


@pytest.fixture
def lab(tmp_path):
    "A real JupyterLab over a notebook with one explorer; its address."
    import socket, subprocess, sys, time, urllib.request
    import nbformat
    cells = ["from ftcourse.explore import explorer\nrun = explorer('schedule', dict(peak=2e-3, steps=44, warmup=5))\nrun", "print(run.settings)"]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")))
    nbformat.write(nb, tmp_path/"one.ipynb")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--allow-root", "--IdentityProvider.token=", "--ServerApp.password="],
                              cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path/"config")})
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try: urllib.request.urlopen(f"{url}/api/status", timeout=2); break
        except OSError: time.sleep(.5)
    yield f"{url}/lab/tree/one.ipynb?reset"
    server.terminate(); server.wait(20)


@needs_browser
@pytest.mark.browser
def test_mouse_and_keys_move_a_slider_in_a_real_jupyterlab_and_python_reads_it(lab, browser):
    page = browser.new_page(viewport=dict(width=1300, height=900))
    page.goto(lab, timeout=60_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000); page.wait_for_timeout(1500)
    run = lambda: (page.locator(".jp-CodeCell").first.click(position=dict(x=3, y=3)), page.click("text=Run >> nth=0"), page.click("text=Run All Cells"))
    run()
    page.wait_for_selector(".ft input[type=range]", timeout=90_000)
    peak = page.locator("[data-name=peak] input")
    peak.scroll_into_view_if_needed()
    box = peak.bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + box["height"]/2)
    page.wait_for_timeout(500)
    assert page.locator("[data-name=peak] output").inner_text() == "1e-5", "a click at the left end"
    page.keyboard.press("ArrowRight"); page.keyboard.press("ArrowRight"); page.wait_for_timeout(500)
    assert page.locator("[data-name=peak] output").inner_text() == "5e-5", "JupyterLab takes the arrow keys away"
    page.keyboard.press("Escape")
    page.locator(".jp-CodeCell").nth(1).locator(".cm-content").click(); page.keyboard.press("Control+Enter"); page.wait_for_timeout(2500)
    assert "'peak': 5e-05" in page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output").inner_text()
    page.close()


@needs_browser
@pytest.mark.browser
def test_the_lora_explorer_counts_as_python_does(served, browser):
    from ftcourse.lora import lora_count
    from ftcourse.models import load_config
    page = browser.new_page()
    page.goto(f"{served}/lora.html", wait_until="networkidle")
    box = page.locator(".ft").first
    for name, value in dict(model="llama-3.1-8b", target="q, v", r="5", alpha="3").items(): choose(box, name, value)  # 5: the sixth rank, 32; 3: alpha 8
    trained, total = lora_count(load_config("llama-3.1-8b"), ["q_proj", "v_proj"], 32)
    got = readout(box)
    assert int(got["trainable parameters"].replace(",", "")) == trained
    assert float(got["share of the model"].split()[0]) == pytest.approx(100*trained/total, rel=.01)
    assert float(got["scale, LoRA"]) == 8/32 and float(got["scale, rsLoRA"]) == pytest.approx(8/32**.5, rel=.01)
