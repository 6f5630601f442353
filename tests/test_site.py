"""The built site in a real browser: nothing asked of other hosts, no error in the console, formulas drawn, readable when dark and at 390 px."""
import re

import pytest
from web import needs_browser, pages


def test_every_notebook_has_its_page(site):
    assert {str(p.relative_to(site)) for p in site.rglob("*.html")} >= set(pages())


@pytest.mark.parametrize("page", pages())
def test_links_inside_the_site_lead_somewhere(site, page):
    from bs4 import BeautifulSoup
    soup = BeautifulSoup((site/page).read_text(encoding="utf-8"), "html.parser")
    for t in soup.select("a[href], link[href], script[src], img[src]"):
        url = (t.get("href") or t.get("src") or "").split("#")[0].split("?")[0]
        if not url or re.match(r"[a-z]+:|//", url): continue
        assert ((site/page).parent/url).exists() if not url.startswith("/") else (site/url[1:]).exists(), f"{page}: {url}"


@pytest.mark.parametrize("page", pages())
def test_code_shows_no_link_as_source(site, page):
    from bs4 import BeautifulSoup
    soup = BeautifulSoup((site/page).read_text(encoding="utf-8"), "html.parser")
    assert not [c.get_text()[:200] for c in soup.select("pre") if re.search(r"`\]\(https?:", c.get_text())]


CONTRAST = """() => {
  const lum = c => { const [r,g,b] = c.map(v => { v/=255; return v<=.03928 ? v/12.92 : ((v+.055)/1.055)**2.4 }); return .2126*r+.7152*g+.0722*b };
  const rgba = s => { const n = (s.match(/[\\d.]+/g) || [0,0,0,0]).map(Number); return s.startsWith('color(srgb') ? [n[0]*255, n[1]*255, n[2]*255, n[3] ?? 1] : n };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .5) return c.slice(0,3) } return [255,255,255] };
  const bad = [];
  for (const e of document.querySelectorAll('p, li, td, th, h1, h2, h3, code span, .sidebar a, nav a, .cell-output pre, input')) {
    if (!e.getClientRects().length || !(e.innerText || e.placeholder || '').trim()) continue;
    const ink = rgba(getComputedStyle(e, e.placeholder ? '::placeholder' : null).color), ground = behind(e), t = ink[3] ?? 1;
    const [a, b] = [lum([0,1,2].map(i => t*ink[i] + (1-t)*ground[i])), lum(ground)];
    const ratio = (Math.max(a,b)+.05)/(Math.min(a,b)+.05);
    if (ratio < 3) bad.push(`${e.tagName}.${e.className} ${ratio.toFixed(1)}: ${(e.innerText||e.placeholder).slice(0,40)}`);
  }
  return bad;
}"""


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(served, browser, scheme, width):
    context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme)
    page, errors, offsite = context.new_page(), [], []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: offsite.append(r.url) if not r.url.startswith((served, "data:", "blob:")) else None)
    for name in pages():
        page.goto(f"{served}/{name}", wait_until="networkidle")
        assert not offsite, f"{name} asks {offsite}"
        assert not errors, f"{name}: {errors}"
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, f"{name} is {wide} px wider than a screen of {width} px"
        assert r"\(" not in page.inner_text("main"), f"{name} shows a formula as source"
        dim = page.evaluate(CONTRAST)
        assert not dim, f"{name} ({scheme}, {width} px) has text that cannot be read: {dim[:5]}"
    context.close()


@needs_browser
@pytest.mark.browser
def test_formulas_are_drawn(served, browser):
    page = browser.new_page()
    page.goto(f"{served}/quickstart.html", wait_until="networkidle")
    sizes = page.eval_on_selector_all("math", "ms => ms.map(m => m.getBoundingClientRect().width)")
    assert len(sizes) >= 5 and min(sizes) > 3


@needs_browser
@pytest.mark.browser
def test_search_finds_a_lesson(served, browser):
    page = browser.new_page()
    page.goto(f"{served}/index.html", wait_until="networkidle")
    box = page.locator("input[type=search], #quarto-search input, .search input").first
    box.click(); box.fill("padding trap")
    page.wait_for_timeout(800)
    assert "models.html" in " ".join(page.eval_on_selector_all("a", "as => as.filter(a => a.offsetParent).map(a => a.href + ' ' + a.innerText)"))
