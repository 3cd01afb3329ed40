"""The documentation site as a reader meets it: built once, served on the loopback address, opened in Chromium.

No page may ask anything of another machine, and a broken link must fail the build.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml
from patience import patient

ROOT = Path(__file__).resolve().parent.parent
PAGE = "pseudo_video/corruption.html"


def build(root, out, *flags):
    command = [sys.executable, str(ROOT / "tools/docs.py"), "--root", str(root), "--out", str(out), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=patient(400))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The folder of the built site: DOCS_SITE where that is set, else built here."
    if "DOCS_SITE" in os.environ:
        return Path(os.environ["DOCS_SITE"])
    pytest.importorskip("pypandoc", reason="no pandoc: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.fixture(scope="session")
def address(site):
    "The site over HTTP on the loopback address."

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def visit(browser, address):
    "Open a page; afterwards, no error in the console and no request to another machine."
    browser.get("about:blank")  # else a browser that has just started is still fetching its own first page
    browser.get_log("browser"), browser.get_log("performance")

    def open_page(page, width=1400):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        )
        browser.get("about:blank")  # a visit to another anchor of the same page would ask for nothing
        browser.get(f"{address}/{page}")
        return browser

    yield open_page
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked, "the log of requests is empty: this test would not see one leave"
    foreign = [
        url
        for url in asked
        if not url.startswith(("data:", "blob:", "chrome:")) and urlparse(url).hostname != "127.0.0.1"
    ]
    assert not foreign, f"requests that leave the machine: {foreign}"
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, f"console: {errors}"


def find(driver, selector):
    return driver.find_elements("css selector", selector)


def wait(driver, condition, seconds=10):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, patient(seconds), poll_frequency=0.1).until(lambda d: condition())


def reached(site):
    "The pages of the sidebar: not the claims, which are reached from the ledger, and not what stands for a lost page."
    found = (p.relative_to(site).as_posix() for p in sorted(site.rglob("*.html")) if p.parent.name != "claims")
    return [page for page in found if page != "404.html"]


def test_sidebar_leads_to_every_page(visit, site):
    driver = visit("index.html")
    links = [a.get_attribute("href") for a in find(driver, "#sidebar a")]
    pages = set(reached(site))
    assert {urlparse(u).path.lstrip("/") for u in links} == pages and "index.html" in pages
    sections = [s.text.lower() for s in find(driver, "#sidebar > ul > li > details > summary")]
    assert sections[:4] == ["start", "pseudo video", "motion coherence", "crossings"] and "experiments" in sections
    next(a for a in find(driver, "#sidebar a") if a.get_attribute("href").endswith(PAGE)).click()
    wait(driver, lambda: driver.current_url.endswith(PAGE))
    assert [a.get_attribute("href") for a in find(driver, "#sidebar a[aria-current]")] == [driver.current_url]


def test_search_hit_leads_to_its_anchor(visit):
    from selenium.webdriver.common.keys import Keys

    driver = visit("index.html")
    find(driver, "body")[0].send_keys("/")
    wait(driver, lambda: driver.switch_to.active_element.get_attribute("id") == "query")
    driver.switch_to.active_element.send_keys("pseudo_video")
    wait(driver, lambda: find(driver, "#hits a"))
    assert find(driver, "#hits a[aria-selected=true]")[0].get_attribute("href").endswith(f"{PAGE}#pseudo_video")
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait(driver, lambda: driver.current_url.endswith(f"{PAGE}#pseudo_video"))
    top = "return document.getElementById('pseudo_video').getBoundingClientRect().top"
    wait(driver, lambda: 0 <= driver.execute_script(top) < 450)


ASK = """
const [queries, done] = arguments, found = {};
(async () => {
    const field = document.getElementById("query"), hits = document.getElementById("hits");
    field.dispatchEvent(new Event("focus"));
    for (const text of queries) {
        field.value = text;
        hits.replaceChildren();
        field.dispatchEvent(new Event("input"));
        for (let i = 0; i < 400 && !hits.children.length; i++) await new Promise((next) => setTimeout(next, 25));
        found[text] = [...new Set([...hits.querySelectorAll("a")].map((a) => new URL(a.href).pathname.slice(1)))];
    }
    done(found);
})();
"""


def test_search_answers_what_readers_ask(visit):
    wanted = yaml.safe_load((ROOT / "tests/search_queries.yml").read_text(encoding="utf-8"))
    found = visit("index.html").execute_async_script(ASK, list(wanted))
    missed = {
        q: found[q][:3] for q, pages in wanted.items() if not {f"{p}.html" for p in pages.split()} & {*found[q][:3]}
    }
    assert not missed, json.dumps(missed, indent=1, ensure_ascii=False)


def test_search_of_symbols_and_stop_words_is_no_error(visit):
    found = visit("index.html").execute_async_script(ASK, ["???", "the of", "((", "*", "\\", "zzzzqqq"])
    assert not any(found.values())


def test_search_says_when_nothing_is_found(visit):
    driver = visit("index.html")
    find(driver, "#query")[0].send_keys("zzyzx")
    wait(driver, lambda: find(driver, "#hits .none"))
    assert not find(driver, "#hits a")


def test_formulas_are_set(visit):
    driver = visit(PAGE)
    blocks = find(driver, "math[display=block]")
    assert blocks and all(m.size["width"] > 40 and m.size["height"] > 12 for m in blocks), "a formula takes no room"
    rendered = driver.execute_script("return document.querySelector('article').innerText")
    assert "$$" not in rendered and "\\frac" not in rendered


def test_figures_load(visit, site):
    page = next(p for p in sorted(site.rglob("*.html")) if "<figure" in p.read_text())
    driver = visit(page.relative_to(site).as_posix())
    driver.execute_script("document.querySelectorAll('figure img').forEach(i => { i.loading = 'eager' })")
    sizes = """return [...document.querySelectorAll('figure img')]
        .map(i => [i.complete, i.naturalWidth, i.clientWidth, i.alt])"""
    figures = wait(driver, lambda: all(f[0] for f in driver.execute_script(sizes)) and driver.execute_script(sizes))
    assert figures and all(natural > 50 and shown > 50 and alt for _, natural, shown, alt in figures)


def test_a_documented_symbol_links_to_its_source(visit):
    driver = visit(f"{PAGE}#pseudo_video")
    entry = driver.execute_script("return document.getElementById('pseudo_video').closest('.api')")
    assert "def pseudo_video(" in entry.text and "coupling" in entry.text
    source = entry.find_element("css selector", "a.source").get_attribute("href")
    path, line = source.split("/blob/main/")[1].split("#L")
    assert (ROOT / path).read_text().splitlines()[int(line) - 1].startswith("def pseudo_video(")


def test_a_word_is_linked_only_where_it_can_mean_one_symbol():
    sys.path.insert(0, str(ROOT / "tools"))
    from symbols import Links, imported

    sources = ["from pvlit.core.data import (\n    load_images,\n    resize as smaller,\n)", "import torch"]
    assert imported(sources) == {"load_images": "pvlit.core.data", "smaller": "pvlit.core.data"}
    page = Links("pvlit.motion_coherence.swapmix", sources)
    for word, leads in {
        "swapmix": "motion_coherence/swapmix.html#swapmix",  # the page's own
        "load_images": "core/data.html#load_images",  # imported, and no other module has it
        "SwapMix.forward": "motion_coherence/swapmix.html#swapmix.forward",
        "FrameModel": "pseudo_video/families/frames.html#framemodel",
    }.items():
        assert page.linkify(f"See `{word}`.").endswith(f"/{leads})."), word
    for word in ("chain", "git", "steps", "verdict", "Recipe", "fingerprint", "nothing_of_this_name"):
        assert page.linkify(f"See `{word}`.") == f"See `{word}`.", word
    assert "core/data.html#fingerprint" in Links("", ["from pvlit.core.data import fingerprint"]).linkify(
        "`fingerprint`"
    )


def test_asterisks_in_docstrings_are_kept(visit):
    driver = visit("motion_coherence/swapmix.html")
    shown = driver.execute_script("return document.getElementById('swapmix').closest('.api').innerText")
    assert "lam * x + (1 - lam) * x[permuted]" in shown, shown[:600]


def test_narrow_screen(visit):
    driver = visit(PAGE, width=390)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 390, "the page scrolls sideways"
    menu, sidebar = find(driver, "#menu")[0], find(driver, "#sidebar")[0]
    assert not sidebar.is_displayed()
    menu.click()
    wait(driver, sidebar.is_displayed)
    driver.switch_to.active_element.send_keys("\ue00c")  # Escape
    wait(driver, lambda: not sidebar.is_displayed())


def test_no_page_is_wider_than_a_phone(visit, site):
    for page in [*reached(site)[::6], "ledger/index.html", "motion_coherence/swapmix.html", "pseudo_video/theory.html"]:
        assert visit(page, width=390).execute_script("return document.documentElement.scrollWidth") <= 390, page


def test_theme_is_kept(visit):
    driver = visit("index.html")
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = driver.execute_script(paper)
    find(driver, "#theme")[0].click()
    dark = driver.execute_script(paper)
    assert dark != light
    driver.refresh()
    assert driver.execute_script(paper) == dark
    find(driver, "#theme")[0].click()


def test_ledger_can_be_filtered(visit, site):
    "By verdict, by page from a badge's address, and by words; every row is there without the script."
    driver = visit("ledger/index.html")
    rows = lambda: [r for r in find(driver, "table.verdicts tbody tr") if r.is_displayed()]
    total = len(json.loads((site / "ledger.json").read_text())["claims"])
    wait(driver, lambda: len(rows()) == total)
    pick = find(driver, ".filters select")[0]
    word = next(o.text for o in pick.find_elements("tag name", "option") if o.get_attribute("value"))
    driver.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", pick, word
    )
    wait(driver, lambda: 0 < len(rows()) and all(word in r.text for r in rows()))
    driver = visit("ledger/index.html?page=pseudo_video/theory")
    wait(driver, lambda: 0 < len(rows()) < total and all("pseudo_video/theory" in r.text for r in rows()))
    find(driver, ".filters input")[0].send_keys("no such words")
    wait(driver, lambda: not rows() and find(driver, ".filters output")[0].text == f"0 of {total}")


def test_badge_leads_to_the_claims_and_every_claim_has_its_page(visit, site):
    table = json.loads((site / "ledger.json").read_text())["claims"]
    assert {f"{row['claim']}.html" for row in table} == {p.name for p in (site / "claims").iterdir()}
    page, row = next((page, row) for row in table for page in row["pages"])
    driver = visit(f"{page}.html")
    assert ("stale" in find(driver, "aside.badge")[0].get_attribute("class")) == any(
        r["stale"] or r["verdict"] in ("void", "untested") for r in table if page in r["pages"]
    )
    click = lambda element: driver.execute_script("arguments[0].click()", element)  # wherever the page has scrolled to
    click(find(driver, "aside.badge a")[0])
    wait(driver, lambda: "ledger/index.html?page=" in driver.current_url and find(driver, "table.verdicts a"))
    click(find(driver, "table.verdicts tr:not([hidden]) td a")[0])
    wait(driver, lambda: "/claims/" in driver.current_url and "The rule, fixed before the run" in driver.page_source)


def test_pages_work_from_the_file_system(site):
    "No page names a place by the root of a server, and the index is a script, which a page opened as a file may load."
    for page in set(site.rglob("*.html")) - {site / "404.html"}:
        assert 'href="/' not in page.read_text() and 'src="/' not in page.read_text()
    assert (site / "search.js").read_text().startswith("window.searchIndex=[")


def notebook(*cells):
    return json.dumps(
        dict(
            nbformat=4,
            nbformat_minor=5,
            metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
            cells=[
                dict(cell_type="markdown", id=f"c{i}", metadata={}, source=source) for i, source in enumerate(cells)
            ],
        )
    )


@pytest.fixture
def small(tmp_path):
    "A repository of two pages."
    pytest.importorskip("pypandoc")
    root = tmp_path / "small"
    (root / "nbs").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    contents = dict(website=dict(sidebar=dict(contents=["index.ipynb", "other.ipynb"])))
    (root / "_quarto.yml").write_text(json.dumps({**contents, "metadata-files": ["nbdev.yml"]}))
    (root / "nbs/index.ipynb").write_text(
        notebook("# Home\n> The first page.", "See [there](other.ipynb#a-part) and $x^2$.")
    )
    (root / "nbs/other.ipynb").write_text(
        notebook("# Other\n> The second page.", "## A part", "Back [home](index.ipynb).")
    )
    return root


def test_check_finds_what_a_reader_would_trip_over(small, tmp_path):
    (small / "nbs/index.ipynb").write_text(
        notebook(
            "# Home\n> The first page.",
            "[gone](gone.ipynb) [part](other.ipynb#no-part) <img src='gone.png'> ![](https://example.org/a.png)",
            "Bad $\\frac{$ formula.",
        )
    )
    (small / "nbs/lost.ipynb").write_text(notebook("# Lost\n> In no sidebar."))
    done = build(small, tmp_path / "out", "--check")
    assert done.returncode == 1, done.stdout + done.stderr
    for words in (
        "broken link gone.ipynb",
        "broken link gone.png",
        "no such anchor",
        "example.org/a.png from the network",
        "lost.ipynb: not in the sidebar",
        "TeX math",
    ):
        assert words in done.stdout, f"not reported: {words}\n{done.stdout}"
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_site_is_left_alone(small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    done = build(small, tmp_path / "mine")
    assert done.returncode == 2 and "not a site" in done.stderr and (tmp_path / "mine/thesis.tex").exists()
