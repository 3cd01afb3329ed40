"""Build the documentation site: notebooks -> nbdev's processors -> markdown -> pandoc -> `_docs/`.

    python tools/docs.py              build; the folder is named by _quarto.yml (nbdev: _docs)
    python tools/docs.py --check      build elsewhere; fail on broken links, anchors, formulas and heavy pages

Title, address, sidebar and output folder are read from `_quarto.yml`, so a machine with Quarto renders the same site
with `nbdev-docs`. Pages work from the file system and load nothing from the network: formulas are MathML, search is a
local index. Two pandoc processes render all pages. Rendered pages and smaller pictures are kept under `.cache/docs`,
each under a hash of what it was made from.
"""

import argparse
import ast
import base64
import builtins
import contextlib
import hashlib
import html
import io
import json
import keyword
import os
import posixpath
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Template
from urllib.parse import unquote, urlparse

import yaml

from pvlit.ledger.pages import MARKS, badge, claim_page
from pvlit.core.settings import load_settings
from pvlit.ledger.evidence import load_evidence
from pvlit.ledger.shown import arm_table, verdict_table
from pvlit.ledger.table import kind_of, ledger, ledger_json
from pvlit.papers import catalog

sys.path.insert(0, str(Path(__file__).parent))
from symbols import Links, link_symbols

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(__file__).resolve().parent / "site"
PAGE_BYTES = 320_000
OPEN_LINES = 15  # implementations up to this length are shown unfolded
PICTURES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/svg+xml": "svg",
    "video/mp4": "mp4",
}
DATA_URI = re.compile(r"data:(%s);base64,([A-Za-z0-9+/=\s]+)" % "|".join(map(re.escape, PICTURES)))
HEADING = re.compile(r'<h([1-4])((?:\s[^>]*)?)\sid="([^"]+)"([^>]*)>(.*?)</h\1>', re.S)
METHOD = re.compile(r"^[A-Z]\w*(?=\.\w+$)")  # the class in `Class.method`
MAGIC = re.compile(r"\s*%(load_ext|autoreload|reload_ext|matplotlib|config)\b")
SEARCHED = 500  # characters of a section that the search knows
LINK = re.compile(r"""\b(href|src|poster)=["']([^"']*)["']""")


@dataclass
class Page:
    "One notebook on its way to HTML."

    source: str  # path of the notebook under nbs/
    url: str  # path of the page under the site
    title: str
    description: str
    order: float
    cells: list
    section: str = ""
    markdown: str = ""
    body: str = ""
    api: set = field(default_factory=set)  # ids of the symbols documented here
    figures: dict = field(default_factory=dict)  # file name -> bytes
    sections: list = field(default_factory=list)  # `(level, id, title, text)` of its parts
    keywords: str = ""  # further words by which the search finds the page
    summary: str = ""  # for search engines; the description when empty
    origin: str = ""  # what the page is made from, when that is not a notebook


@dataclass
class Site:
    "What `_quarto.yml` and the files it names say, and what went wrong."

    root: Path
    config: dict
    output: str
    pages: dict = field(default_factory=dict)  # notebook path -> Page, in sidebar order
    tree: list = field(default_factory=list)
    ledger: list = field(default_factory=list)  # one row a claim and run
    by_url: dict = field(default_factory=dict)  # address on the site -> Page
    neighbors: dict = field(default_factory=dict)  # notebook path -> the pages before and after
    kept: "Kept" = None  # what earlier builds made
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    seconds: dict = field(default_factory=dict)  # what the build did -> how long it took
    since: float = field(default_factory=time.perf_counter)

    def done(self, what):
        "Note that a part of the build has ended."
        now = time.perf_counter()
        self.seconds[what], self.since = now - self.since, now

    @property
    def address(self):
        return self.config.get("site-url", "").rstrip("/") + "/"

    def repository(self, path, kind="blob"):
        return f"{self.config.get('repo-url', '').rstrip('/')}/{kind}/{self.config.get('repo-branch', 'main')}/{path}"


def text(value):
    return value if isinstance(value, str) else "".join(value or "")


def plain(fragment):
    return html.unescape(
        re.sub(r"<[^>]+>", "", re.sub(r"<annotation.*?</annotation>", "", fragment, flags=re.S))
    ).strip()


# Reading -------------------------------------------------------------------------------------------------------------


def merge(a, b):
    return {
        k: merge(a[k], b[k]) if isinstance(a.get(k), dict) and isinstance(b.get(k), dict) else b.get(k, a.get(k))
        for k in {**a, **b}
    }


def read_site(root):
    "Read `_quarto.yml` and the metadata files it lists."
    from nbdev.quarto import refresh_quarto_yml

    refresh_quarto_yml()  # writes nbs/nbdev.yml from pyproject.toml
    config = yaml.safe_load((root / "_quarto.yml").read_text())
    for name in config.get("metadata-files", []):
        if (root / "nbs" / name).exists():
            config = merge(config, yaml.safe_load((root / "nbs" / name).read_text()))
    return Site(root, config["website"], config.get("project", {}).get("output-dir", "_docs"))


@contextlib.contextmanager
def lock(root):
    "One build at a time writes nbs/nbdev.yml."
    folder = root / ".cache"
    folder.mkdir(exist_ok=True)
    with open(folder / "docs.lock", "w") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Kept:
    "What a build made, by the content it was made from, so that the next build need not make it again."

    def __init__(self, folder):
        self.folder, self.used = folder, set()
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, key):
        "The bytes kept under `key`, or `None`."
        self.used.add(key)
        path = self.folder / key
        return path.read_bytes() if path.exists() else None

    def keep(self, key, data):
        "Store `data` under `key`, whole or not at all."
        path = self.folder / key
        part = path.with_name(f"{key}.{os.getpid()}")
        part.write_bytes(data)
        part.replace(path)
        return data

    def forget(self):
        "Delete what this build had no use for."
        for path in self.folder.iterdir():
            if path.name not in self.used:
                path.unlink(missing_ok=True)


def key(*parts):
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def processed(path):
    "The cells of a notebook after nbdev's processors, without the one that runs code: docstrings are read instead."
    from nbdev import processors
    from nbdev.process import NBProcessor

    instead = {
        processors.add_show_docs: show_symbols,  # parses every cell
        processors.add_links: link_symbols,  # links a word to any symbol of that name
        processors.clean_magics: None,  # reads pyproject.toml for every cell; `options` drops magics
        processors.exec_show_docs: None,  # runs the notebook's imports and definitions
        processors.insert_warning: None,
        processors.ai_magics: None,
    }
    steps = [instead.get(step, step) for step in processors.FilterDefaults().base_procs()]
    work = NBProcessor(path, procs=[step for step in steps if step], rm_directives="quarto")
    work.process()
    return work.nb.cells


class show_symbols:
    "An nbdev processor that puts a cell `show_doc(name)` behind an exported one for each public name it defines."

    def __init__(self, nb):
        self.nb = nb

    def begin(self):
        from fastcore.nbio import mk_cell
        from nbdev.showdoc import showdoc_nm

        cells = []
        for cell in self.nb.cells:
            cells.append(cell)
            marks = cell.directives_ if cell.cell_type == "code" else {}
            if not {"export", "exports"} & marks.keys() or "hide" in marks or marks.get("include") == "false":
                continue
            for node in ast.parse(options(cell.source)[1]).body:
                if isinstance(node, DEFINITIONS) and re.match(r"[^_]|__", node.name):
                    names = showdoc_nm(node)
                    cells += [mk_cell(f"show_doc({n})") for n in ([names] if isinstance(names, str) else names)]
        for index, cell in enumerate(cells):
            cell.idx_ = index
            if "directives_" not in cell:
                cell.directives_ = {}
        self.nb.cells[:] = cells


def read_pages(root):
    "The notebooks below `nbs/` as pages; title and description come from the front matter that nbdev finds in them."
    found = {}
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        source = path.relative_to(root / "nbs").as_posix()
        if any(part.startswith((".", "_")) for part in source.split("/")):
            continue
        cells = processed(path)
        front, first = {}, text(cells[0]["source"]) if cells else ""
        if cells and cells[0]["cell_type"] == "raw" and first.startswith("---"):
            front = yaml.safe_load(first.strip().strip("-")) or {}
        name = front.get("output-file", path.with_suffix(".html").name.lower())
        found[source] = Page(
            source,
            posixpath.join(posixpath.dirname(source), name),
            str(front.get("title", path.stem)),
            str(front.get("description", "")),
            front.get("order", 1e9),
            cells[bool(front) :],
            keywords=str(front.get("keywords", "")),
        )
    return found


def read_tree(site, found):
    "The sidebar as nested `(title, page or None, children)`; every page must have its place."

    def folder(name):
        name = name.strip("/")
        own = sorted(
            (p for p in found.values() if posixpath.dirname(p.source) == name),
            key=lambda p: (not is_index(p), p.order, p.source),
        )
        inside = (p.source[len(name) + 1 :].split("/") for p in found.values() if p.source.startswith(name + "/"))
        out = [(p.title, p, []) for p in own]
        for part in sorted({parts[0] for parts in inside if len(parts) > 1}):
            below = folder(f"{name}/{part}")
            if is_index(below[0][1]):
                out.append((*below[0][:2], below[1:]))  # the title of the group leads to its index page
            else:
                out.append((re.sub("[-_]", " ", part).capitalize(), None, below))
        return out

    def is_index(page):
        return page is not None and posixpath.basename(page.source) == "index.ipynb"

    def items(contents):
        if isinstance(contents, str):
            contents = [{"auto": contents}]
        out = []
        for item in contents or []:
            if isinstance(item, str):
                item = {"href": item}
            if "section" in item:
                below = items(item.get("contents"))
                if below:
                    out.append((item["section"], found.get(item.get("href")), below))
            elif "auto" in item:
                if "*" in item["auto"]:
                    out += [(p.title, p, []) for p in found.values() if Path(p.source).match(item["auto"])]
                else:
                    out += folder(item["auto"])
            elif item.get("href") in found:
                out.append((item.get("text", found[item["href"]].title), found[item["href"]], []))
            else:
                site.problems.append(
                    f"_quarto.yml: the sidebar lists {item.get('href')}, and nbs/ has no such notebook"
                )
        return out

    def place(entries, section=""):
        for title, page, below in entries:
            if page:
                page.section = page.section or section
                site.pages.setdefault(page.source, page)
            place(below, title)

    site.tree = items(site.config.get("sidebar", {}).get("contents"))
    place(site.tree)
    for source in found.keys() - site.pages.keys():
        site.problems.append(f"nbs/{source}: not in the sidebar of _quarto.yml, so no reader would find it")


NAMES = "MCA VA VQ HVAE DDPM AMAD DCTC SFC SVW VDC TSM VFPSIE EMD EMD2 AAIP KL UCF101 HMDB51 MNIST"
NAMES = {name.lower(): name for name in f"{NAMES} SwapMix SlowFast UniFormer".split()}


def spoken(claim):
    "The id of a claim as a title."
    words = " ".join(NAMES.get(word, word) for word in claim.split("_"))
    return words[0].upper() + words[1:]


def add_claims(site):
    "A page for every claim of the ledger, behind the pages of the sidebar."
    for row in {row["claim"]: row for row in site.ledger}.values():
        name, mark = row["claim"], MARKS[kind_of(row)]
        cell = dict(cell_type="markdown", source=claim_page(name, site.ledger))
        page = Page(
            f"claims/{name}.ipynb",
            f"claims/{name}.html",
            spoken(name),
            f"{mark} {row['verdict']}",
            1e9,
            [cell],
            "Ledger",
            summary=f"{row['verdict'].capitalize()}: {row['statement'].strip()}",
            origin=f"data/claims/{row['experiment']}.yml",
        )
        site.pages[page.source] = page


# Notebook -> markdown -> HTML ----------------------------------------------------------------------------------------


def fence(body, attributes):
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", body)), default=0))
    return f"{ticks} {attributes}\n{body.rstrip()}\n{ticks}\n"


def raw(body):
    return fence(body, "{=html}")


def options(source):
    "Quarto's cell options (`#| key: value`) and the code below them."
    lines = source.splitlines()
    found = {m[1]: m[2].strip().strip("\"'") for line in lines if (m := re.match(r"#\|\s*([\w-]+):\s*(.*)", line))}
    code = (line for line in lines if not line.startswith("#|") and not MAGIC.match(line))
    return found, "\n".join(code).strip("\n")


def lighter(data, kept):
    "A PNG with a palette of 256 colors where that saves bytes: charts of few colors lose nothing an eye could see."
    name = key(b"palette", data)
    if found := kept.find(name):
        return found
    from PIL import Image

    small, image = io.BytesIO(), Image.open(io.BytesIO(data)).convert("RGBA")
    image = image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return kept.keep(name, min(data, small.getvalue(), key=len))


def picture(site, page, mime, data, alt, caption=""):
    "An `<img>` for stored bytes, which become a file beside the page."
    if mime == "image/png":
        data = lighter(data, site.kept)
    name = f"{page.url.removesuffix('.html').replace('/', '-')}-{len(page.figures) + 1}.{PICTURES[mime]}"
    page.figures[name] = data
    size = ' width="%d" height="%d"' % struct.unpack(">II", data[16:24]) if mime == "image/png" else ""
    caption = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    image = f'<img src="@/figures/{name}" alt="{html.escape(alt, quote=True)}"{size} loading="lazy">'
    return f"<figure>{image}{caption}</figure>"


def extract(page, fragment):
    "Move pictures embedded in HTML to files, so that pages stay light."

    def move(match):
        name = f"{page.url.removesuffix('.html').replace('/', '-')}-{len(page.figures) + 1}.{PICTURES[match[1]]}"
        page.figures[name] = base64.b64decode(match[2])
        return f"@/figures/{name}"

    return DATA_URI.sub(move, fragment)


def output_markdown(site, page, output, heading, opts):
    "One stored output; the richest form that a page without a kernel can show."
    if output["output_type"] == "stream":
        return fence(text(output["text"]), "{.stream .%s}" % output["name"])
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return "::: {.interactive}\nThese controls move in JupyterLab: `make lab`, then open `%s`.\n:::\n" % page.source
    alt, caption = opts.get("fig-alt") or opts.get("fig-cap") or f"Figure: {heading}", opts.get("fig-cap", "")
    for mime in PICTURES:
        if mime in data:
            value = text(data[mime])
            stored = value.encode() if "svg" in mime else base64.b64decode(value)
            return raw(picture(site, page, mime, stored, alt, caption))
    if "text/markdown" in data:
        return text(data["text/markdown"]) + "\n"
    if "text/html" in data:
        return raw('<div class="html-output">%s</div>' % extract(page, text(data["text/html"])))
    if "text/latex" in data:
        return text(data["text/latex"]) + "\n"
    return fence(text(data.get("text/plain", "")), "{.result}")


DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


class Module:
    "What a notebook exports: the module's text and tree, and the exported cells in order."

    def __init__(self, root, source):
        notebook = root / "nbs" / source
        cells = (
            json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
        )  # a claim's page has none
        self.place = {c.get("id"): i for i, c in enumerate(cells)}
        names = [
            m[1]
            for c in cells
            if c["cell_type"] == "code" and (m := re.search(r"^#\|\s*default_exp\s+(\S+)", text(c["source"]), re.M))
        ]
        path = root / "pvlit" / (names[0].replace(".", "/") + ".py") if names else root / "none"
        self.path = path.relative_to(root).as_posix()
        self.links = Links(f"pvlit.{names[0]}" if names else "", [text(c["source"]) for c in cells])
        self.code = path.read_text(encoding="utf-8") if path.exists() else ""
        self.tree = ast.parse(self.code)
        self.defined, self.pending = {}, []  # symbol -> index of its cell; (index, code nbdev would not show, names)
        for i, cell in enumerate(cells):
            body = text(cell["source"])
            if (
                cell["cell_type"] == "code"
                and path.exists()
                and re.search(r"^#\|\s*exporti?\s*$", body, re.M)
                and not re.search(r"^#\|\s*hide\b", body, re.M)
            ):
                self.sort(i, options(body)[1])

    def sort(self, index, code):
        "Keep what nbdev leaves out of a page: exported constants and helpers with a leading underscore."
        rest, names, last = [], [], 0
        for node in ast.parse(code).body:
            lines, last = code.splitlines()[last : node.end_lineno], node.end_lineno  # with the comments above it
            name = getattr(node, "name", "")
            if isinstance(node, DEFINITIONS) and (not name.startswith("_") or name.startswith("__")):
                self.defined[name] = index
            elif not isinstance(node, (ast.Import, ast.ImportFrom)):
                rest += lines
                names += [name] if name else []
        if "\n".join(rest).strip():
            self.pending.append((index, "\n".join(rest).strip("\n"), names))

    def flush(self, index):
        "Markdown of the kept cells that stand before cell `index`."
        out = []
        while self.pending and self.pending[0][0] < index:
            _, code, names = self.pending.pop(0)
            out.append(
                folded(code, ", ".join(f"<code>{n}</code>" for n in names))
                if names
                else ":::: {.cell}\n" + fence(code, "{.python}") + "::::\n"
            )
        return out

    def find(self, name):
        "The definition of `function`, `Class` or `Class.method`, a method also where fastcore's `patch` adds it."
        owner, _, last = name.rpartition(".")
        inside = getattr(self.find(owner), "body", []) if owner else self.tree.body
        outside = [n for n in self.tree.body if owner and owner in patched_classes(n)]
        return next((n for n in [*inside, *outside] if isinstance(n, DEFINITIONS) and n.name == last), None)


def patched_classes(node):
    "The names in the annotation of a function's first argument."
    first = node.args.args[0].annotation if isinstance(node, DEFINITIONS[:2]) and node.args.args else None
    return {n.id for n in ast.walk(first) if isinstance(n, ast.Name)} if first else set()


def folded(code, title):
    n = len(code.splitlines())
    return (
        raw(
            f'<details class="code"{" open" if n <= OPEN_LINES else ""}>'
            f"<summary>{title}, {n} line{'s' * (n != 1)}</summary>"
        )
        + "\n"
        + fence(code, "{.python}")
        + "\n"
        + raw("</details>")
    )


def split_definition(node, code):
    "`(signature, implementation)`: the lines up to the docstring and below it; of a class, its fields or `__init__`."

    def lines(first, last):
        found = code.splitlines()[first - 1 : last]
        indent = min((len(x) - len(x.lstrip()) for x in found if x.strip()), default=0)
        return "\n".join(x[indent:] for x in found)

    def start(n):
        return min([n.lineno] + [d.lineno for d in getattr(n, "decorator_list", [])])

    inside = node.body[1:] if ast.get_docstring(node) else node.body
    if not inside or start(inside[0]) == node.lineno:
        return lines(start(node), node.end_lineno), ""
    signature = lines(start(node), start(node.body[0]) - 1)
    below = lines(node.body[0].end_lineno + 1 if inside is not node.body else start(inside[0]), node.end_lineno).strip(
        "\n"
    )
    if isinstance(node, ast.ClassDef):
        fields = [n for n in inside if isinstance(n, ast.AnnAssign)]
        init = next((n for n in inside if getattr(n, "name", "") == "__init__"), None)
        if fields and not init:
            signature += "\n    " + lines(fields[0].lineno, fields[-1].end_lineno).replace("\n", "\n    ")
            below = (
                lines(fields[-1].end_lineno + 1, node.end_lineno).strip("\n")
                if fields[-1].end_lineno < node.end_lineno
                else ""
            )
        elif init:
            signature += "\n    " + split_definition(init, code)[0].replace("\n", "\n    ")
    return signature, below


def api_markdown(site, page, name, module):
    "A documented symbol: anchor, link to its line in the repository, signature, words, and the code itself."
    anchor, node = name.lower(), module.find(name)
    while anchor in page.api:
        anchor += "-1"  # a class and a function that differ in case only
    page.api.add(anchor)
    head = f'<section class="api">\n<h3 id="{anchor}" class="symbol"><code>{html.escape(name)}</code></h3>\n'
    if not node:
        return raw(f"{head}</section>")
    head += f'<a class="source" href="{site.repository(module.path)}#L{node.lineno}">source</a>'
    signature, body = split_definition(node, module.code)
    words = re.sub(r"(`[^`\n]*`)|\*", lambda m: m[1] or r"\*", docstring(node))  # an asterisk multiplies
    words = module.links.linkify(words) or ""
    code = folded(body, "Implementation") if body else ""
    return "\n".join([raw(head), fence(signature, "{.python}"), words, "", code, raw("</section>")])


def docstring(node):
    "The docstring of a definition, or of the `__init__` of a class that has none."
    init = (n for n in getattr(node, "body", []) if getattr(n, "name", "") == "__init__")
    found = ast.get_docstring(node)
    if not found and isinstance(node, ast.ClassDef):
        found = next(map(ast.get_docstring, init), None)
    return found or ""


def hidden(title, markdown):
    "Markdown behind a line that opens it."
    return "\n\n".join([raw(f'<details class="code"><summary>{title}</summary>'), markdown, raw("</details>"), ""])


def found_markdown(site, page):
    "What the committed evidence of an experiment says, for the top of its page: below stand numbers of a smoke run."
    name = Path(page.source).stem
    files = sorted((site.root / "data/results" / name).glob("*.json")) if page.source.startswith("experiments/") else []
    parts = []
    for file in files:
        try:
            evidence = load_evidence(file)
            tables = verdict_table(evidence), arm_table(evidence)
        except (ValueError, KeyError, TypeError) as error:
            parts.append(f"*{file.name} cannot be read: {html.escape(str(error))}*\n")
            continue
        arms, seeds = ({row[key] for row in evidence["rows"]} for key in ("arm", "seed"))
        said = f"{len(arms)} arms, {len(seeds)} seeds, {evidence['date']}, {evidence['device']}"
        command = f"`pvlit run {name} --params {file.stem}`"
        parts.append(f"**{file.stem.replace('_', ' ')}**: {said}; {command}\n\n{tables[0]}\n")
        parts.append(hidden("All arms", tables[1]))
    if not parts:
        return []
    note = (
        "Below is the notebook, with the output of a smoke run folded: it shows that everything works, and no result."
    )
    return ["## What was found\n", *parts, f"\n{note}\n"]


def page_markdown(site, page):
    "The whole page as one pandoc document."
    module, heading, parts = Module(site.root, page.source), page.title, []
    parts.append(f"# {page.title} {{#top}}\n")
    if page.description:
        parts.append(f"::: {{.lead}}\n{page.description}\n:::\n")
    parts.append(raw(badge(page.source.removesuffix(".ipynb"), site.ledger, "@")))
    found, smoke = found_markdown(site, page), False
    parts += found
    for cell in page.cells:
        parts += module.flush(module.place.get(cell.get("id"), -1))
        source = text(cell.get("source"))
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#{1,4}\s+(.*?)\s*$", source, re.M) or [heading])[-1]
            parts.append(source + "\n")
        if cell["cell_type"] != "code" or not source.strip():
            continue
        opts, code = options(source)
        tags, outputs = cell.get("metadata", {}).get("tags", []), cell.get("outputs", [])
        smoke = smoke or bool(found) and "parameters" in tags
        if opts.get("include") == "false":
            continue
        if shown := re.match(r"show_doc\(([\w.]+)", code):
            parts += [*module.flush(module.defined.get(shown[1], -1)), api_markdown(site, page, shown[1], module)]
            continue
        if opts.get("output") == "false" or "hide-output" in tags:
            outputs = []
        block = []
        if code and opts.get("echo") != "false" and "hide-input" not in tags:
            fold = opts.get("code-fold") in ("true", "show")
            block.append(
                folded(code, html.escape(opts.get("code-summary", "Code"))) if fold else fence(code, "{.python}")
            )
        results = [output_markdown(site, page, o, heading, opts) for o in outputs if o["output_type"] != "error"]
        if results:
            shown = "::: {.output}\n" + "\n".join(results) + "\n:::\n"
            block.append(hidden("Output of the smoke run", shown) if smoke else shown)
        if block:
            parts.append(":::: {.cell}\n" + "\n".join(block) + "\n::::\n")
    return "\n".join([*parts, *module.flush(1e9)])


PYTHON = re.compile(
    r"(?P<co>#[^\n]*)"
    r"|(?P<st>(?:\b(?:[rbuf]|[bf]r|r[bf]))?(?:"
    r'"""(?:[^\\]|\\.)*?(?:"""|\Z)'
    r"|\'\'\'(?:[^\\]|\\.)*?(?:\'\'\'|\Z)"
    r'|"(?:[^"\\\n]|\\.)*"?'
    r"|'(?:[^'\\\n]|\\.)*'?))"
    r"|(?P<dv>\b\d(?:e[-+]|[\w.])*)"
    r"|(?P<word>\b[^\W\d]\w*)",
    re.S | re.I,
)
KINDS = {**dict.fromkeys(dir(builtins), "bu"), **dict.fromkeys(keyword.kwlist, "kw")}


def colored(code):
    "Python as HTML, a span for each line; comments, strings, numbers, keywords and built-in names have their class."

    def escaped(words):
        return html.escape(words, quote=False)

    out, last = [], 0
    for found in PYTHON.finditer(code):
        kind = KINDS.get(found[0]) if found.lastgroup == "word" else found.lastgroup
        if kind:
            lines = escaped(found[0]).split("\n")
            spans = [f'<span class="{kind}">{line}</span>' if line else "" for line in lines]
            out += [escaped(code[last : found.start()]), "\n".join(spans)]
            last = found.end()
    lines = "".join([*out, escaped(code[last:])]).split("\n")
    return "\n".join(f"<span>{line}</span>" for line in lines)


def with_colors(body):
    "The HTML of a page with its Python in colors; pandoc's highlighter takes ten times as long as its other work."
    return re.sub(
        r'<pre class="python"><code>(.*?)</code></pre>',
        lambda m: (
            '<div class="sourceCode"><pre class="sourceCode python"><code class="sourceCode python">'
            f"{colored(html.unescape(m[1]))}</code></pre></div>"
        ),
        body,
        flags=re.S,
    )


def pandoc(texts):
    "`[HTML, warnings]` of each markdown text, all of them by one process."
    import pypandoc

    command = [pypandoc.get_pandoc_path(), "lua", str(ASSETS / "pages.lua")]
    done = subprocess.run(command, input=json.dumps(texts).encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError("pandoc: " + done.stderr.decode(errors="replace"))
    return [
        [with_colors(body), [note["pretty"] for part in notes for note in part]]
        for body, notes in json.loads(done.stdout)
    ]


def render(site):
    "Give every page its HTML: what an earlier build rendered from the same words is read, pandoc renders the rest."
    import pypandoc

    stamp = pypandoc.get_pandoc_version() + "".join(p.read_text() for p in (ASSETS / "pages.lua", Path(__file__)))
    pages = list(site.pages.values())
    keys = [key(stamp.encode(), page.markdown.encode()) for page in pages]
    done = {name: json.loads(found) for name in keys if (found := site.kept.find(name))}
    missing = {name: page.markdown for name, page in zip(keys, pages) if name not in done}
    halves = [[*missing.items()][start::2] for start in range(2)]
    with ThreadPoolExecutor(2) as pool:
        rendered = pool.map(pandoc, [[words for _, words in half] for half in halves if half])
        for half, results in zip(filter(None, halves), rendered):
            done.update((name, result) for (name, _), result in zip(half, results))
    for name in missing:
        site.kept.keep(name, json.dumps(done[name]).encode())
    for name, page in zip(keys, pages):
        page.body, notes = done[name]
        for note in notes:
            if "Duplicate identifier" not in note:  # `finish` settles those, `check` would see
                (site.problems if "TeX math" in note else site.warnings).append(f"nbs/{page.source}: {note}")


# Finishing -----------------------------------------------------------------------------------------------------------


def relative(target, page):
    return between(target, posixpath.dirname(page.url) or ".")


@cache
def between(target, folder):
    return posixpath.relpath(target, folder)


def resolve(site, page, target, assets):
    "Where a link of a notebook leads on the site; `None` when nowhere."
    if target.startswith("@/"):
        return relative(target[2:], page)
    if target.startswith(site.address) and len(site.address) > 1:  # nbdev's links from `symbol` to its page
        path, _, anchor = target[len(site.address) :].partition("#")
        found = site.by_url.get(path)
        if not found:
            return None
        while anchor and anchor not in found.api:
            anchor = anchor.rpartition(".")[0]  # a method leads to its class
        return (relative(path, page) if found is not page else "") + (f"#{anchor}" if anchor else "") or "#top"
    if re.match(r"[a-z][a-z0-9+.-]*:|//|#", target) or not target:
        return target
    path, hash_, anchor = target.partition("#")
    path, mark, query = path.partition("?")
    anchor = mark + query + hash_ + anchor
    path = posixpath.normpath(posixpath.join("nbs", posixpath.dirname(page.source), unquote(path)))
    inside = path.removeprefix("nbs/")
    found = site.pages.get(inside) or site.by_url.get(inside)
    if found:
        return relative(found.url, page) + anchor
    if path.startswith("..") or not (site.root / path).exists():
        return None
    if path.startswith("nbs/") and re.search(r"\.(png|jpe?g|gif|svg|webp|mp4)$", path):
        assets.add(inside)
        return relative(inside, page)
    return site.repository(path, "tree" if (site.root / path).is_dir() else "blob")


def unpack(page):
    "Put pictures that stand in the text as data into files, which the browser fetches when they come into sight."

    def kept(match):
        data = base64.b64decode(match[2])
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{match[1]}"
        page.figures[name] = data
        return f'loading="lazy" src="@/figures/{name}"'

    page.body = re.sub(r"""src=["']data:image/(jpeg|png);base64,([^"']+)["']""", kept, page.body)


def finish(site, page, assets):
    "Settle links and anchors of a page's HTML."
    unpack(page)

    def link(match):
        leads = resolve(site, page, html.unescape(match[2]), assets)
        if leads is None:
            site.problems.append(f"nbs/{page.source}: broken link {match[2]}")
            return match[0]
        return f'{match[1]}="{html.escape(leads, quote=True)}"'

    def heading(match):
        level, before, name, after, inner = match.groups()
        symbol = "symbol" in before + after
        if not symbol and name in page.api:
            name = f"about-{name}"  # the symbol keeps the short anchor
        if level == "1":
            return f'<h1 id="{name}">{inner}</h1>'
        anchor = f'<a class="anchor" href="#{name}" aria-label="Link to this section">#</a>'
        return f'<h{level}{before} id="{name}"{after}>{inner}{anchor}</h{level}>'

    page.body = HEADING.sub(heading, page.body)
    page.body = re.sub(
        "<mo>(&#8289;|\u2061)</mo>(?=(?:</mrow>)*<m(?!space|o[> ][^<]*[(\\[]))",
        r'<mo rspace="0.17em">\1</mo>',
        page.body,
    )  # sin x, not sinx
    page.body = re.sub(
        r"<colgroup>.*?</colgroup>", "", page.body, flags=re.S
    )  # widths by dashes: the browser knows better
    page.body = re.sub(
        r"<table\b.*?</table>",
        lambda m: f'<div class="table" tabindex="0" role="region" aria-label="Table">{m[0]}</div>',
        page.body,
        flags=re.S,
    )
    claims = {row["claim"] for row in site.ledger} - {posixpath.splitext(posixpath.basename(page.url))[0]}
    page.body = re.sub(
        r"<code>(\w+)</code>",
        lambda m: f'<a href="@/claims/{m[1]}.html">{m[0]}</a>' if m[1] in claims else m[0],
        page.body,
    )
    page.body = re.sub(r"<[^!/][^>]*>", lambda m: LINK.sub(link, m[0]), page.body)


def sections(page):
    "`(level, id, title, text)` of every part of a page, text without code."
    found = [
        (m.start(), m.end(), int(m[1]), m[3], plain(re.sub(r'<a class="anchor".*?</a>', "", m[5])))
        for m in HEADING.finditer(page.body)
    ]
    for (_, start, level, name, title), stop in zip(found, [f[0] for f in found[1:]] + [len(page.body)]):
        prose = re.sub(
            r"<(pre|figure|annotation|summary)\b.*?</\1>|<a class=.source..*?</a>",
            " ",
            page.body[start:stop],
            flags=re.S,
        )
        yield (
            level,
            name,
            title,
            re.sub(r"\s+", " ", plain(re.sub(r"<(?!/?(?:a|code|em|strong|m\w+)\b)", " <", prose))).strip(),
        )


def sidebar_html(site, page):
    def entry(title, target, below, depth):
        mark = ' aria-current="page"' if target is page else ""
        link = f'<a href="{relative(target.url, page)}"{mark}>{html.escape(title)}</a>' if target else ""
        if not below:
            return f"<li>{link}</li>"
        inside = any(contains(e) for e in below)
        items = "".join(entry(*e, depth + 1) for e in below)
        opened = " open" if inside or depth == 0 else ""
        head = f"<summary>{link or html.escape(title)}</summary>"
        return f"<li><details{opened}>{head}<ul>{items}</ul></details></li>"

    def contains(e):
        return e[1] is page or any(map(contains, e[2]))

    return "<ul>" + "".join(entry(*e, 0) for e in site.tree) + "</ul>"


def page_html(site, page, template):
    before, after = site.neighbors[page.source]

    def step(target, kind, label):
        if not target:
            return "<span></span>"
        words = f"<small>{label}</small>{html.escape(target.title)}"
        return f'<a class="{kind}" rel="{kind}" href="{relative(target.url, page)}">{words}</a>'

    toc = "".join(
        f'<li class="l{level}"><a href="#{name}">{html.escape(METHOD.sub("", title))}</a></li>'
        for level, name, title, _ in page.sections
        if 2 <= level <= 3
    )
    root = posixpath.relpath(".", posixpath.dirname(page.url) or ".")
    title, name = plain(page.title.replace("`", "")), site.config.get("title", "")
    return template.substitute(
        title=html.escape(title if page.url == "index.html" else f"{title} · {name}"),
        site=html.escape(name),
        description=html.escape(
            page.summary or plain(page.description) or site.config.get("description", ""), quote=True
        ),
        picture="".join(
            f'\n<meta property="og:image" content="{html.escape(site.address, quote=True)}figures/{figure}">'
            for figure in [*page.figures][:1]
        ),
        base=f'\n<base href="{urlparse(site.address).path}">' if page.url == "404.html" else "",
        canonical=html.escape(site.address + page.url, quote=True),
        root=root,
        section=html.escape(page.section),
        sidebar=sidebar_html(site, page),
        toc=f"<ul>{toc}</ul>" if toc else "",
        body=page.body,
        previous=step(before, "prev", "Previous"),
        next=step(after, "next", "Next"),
        notebook=html.escape(site.repository(page.origin or f"nbs/{page.source}"), quote=True),
        made="Declaration of this claim" if page.origin else "Notebook of this page",
        repository=html.escape(site.config.get("repo-url", ""), quote=True),
    )


def build(root, out):
    "Build the site of the repository at `root` into the folder `out`; returns the `Site` with its problems."
    with lock(root):
        site = read_site(root)
    site.kept = Kept(root / ".cache" / "docs")
    site.done("settings")
    read_tree(site, read_pages(root))
    site.done("notebooks")
    site.ledger = ledger()
    site.done("ledger")
    add_claims(site)
    site.done("pages of claims")
    if not site.pages:
        raise ValueError("no pages: nbs/ holds no notebook that the sidebar of _quarto.yml lists")
    pages = list(site.pages.values())
    site.by_url = {page.url: page for page in pages}
    site.neighbors = {p.source: (a, b) for a, p, b in zip([None, *pages], pages, [*pages[1:], None])}
    for page in pages:
        page.markdown = page_markdown(site, page)
    site.done("markdown")
    render(site)
    site.done("HTML")
    assets = set()
    for page in pages:
        finish(site, page, assets)
        page.sections = list(sections(page))
    site.done("links")
    write(site, out, assets)
    site.kept.forget()
    site.done("writing")
    site.problems += check(out)
    site.done("checks")
    return site


def write(site, out, assets):
    "Pages, pictures, style, script, ledger and the index of the search."
    out.mkdir(parents=True, exist_ok=True)
    template = Template((ASSETS / "page.html").read_text(encoding="utf-8"))
    for page in site.pages.values():
        target = out / page.url
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page_html(site, page, template), encoding="utf-8")
        for name, data in page.figures.items():
            (out / "figures").mkdir(exist_ok=True)
            (out / "figures" / name).write_bytes(data)
    for name in sorted(assets):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(site.root / "nbs" / name, out / name)
    lost = Page("404.ipynb", "404.html", "This page does not exist", "", 1e9, [])
    lost.body = (
        f"<h1>{lost.title}</h1><p>Search for it above, or start from <a href='index.html'>the first page</a>.</p>"
    )
    site.neighbors[lost.source] = None, None
    (out / "404.html").write_text(page_html(site, lost, template), encoding="utf-8")
    urls = "".join(f"<url><loc>{html.escape(site.address + page.url)}</loc></url>\n" for page in site.pages.values())
    xmlns = "http://www.sitemaps.org/schemas/sitemap/0.9"
    (out / "sitemap.xml").write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="{xmlns}">\n{urls}</urlset>\n'
    )
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {site.address}sitemap.xml\n")
    for name in ("style.css", "site.js", "minisearch.js"):
        shutil.copyfile(ASSETS / name, out / name)
    if site.ledger:
        rows = json.dumps(ledger_json(site.ledger), indent=1, ensure_ascii=False)
        (out / "ledger.json").write_text(rows + "\n", encoding="utf-8")
        shutil.copyfile(site.root / "data" / "ledger.schema.json", out / "ledger.schema.json")
    known = catalog(settings=load_settings(site.root)) if (site.root / "data/papers.csv").exists() else []
    about = {f"papers/{p.family}/{p.slug}.ipynb": f"{p.title} {p.task} {p.slug.replace('_', ' ')}" for p in known}
    index = []
    for page in site.pages.values():
        headings = " ".join(title for level, _, title, _ in page.sections if level == 2)
        keywords = f"{about.get(page.source, '')} {page.keywords} {headings}".strip()
        for level, name, title, words in page.sections:
            entry = [f"{page.url}#{name}", page.title, title if level > 1 else "", words[:SEARCHED]]
            index.append(entry + ([keywords] if level == 1 else []))
    found = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    (out / "search.js").write_text(f"window.searchIndex={found};\n", encoding="utf-8")


def check(out):
    "Broken anchors, missing files, doubled ids, anything fetched from elsewhere, heavy pages."
    pages = {p.relative_to(out).as_posix(): p.read_text(encoding="utf-8") for p in sorted(out.rglob("*.html"))}
    ids = {url: re.findall(r'\sid="([^"]+)"', page) for url, page in pages.items()}
    for url, page in pages.items():
        for name in sorted(name for name, n in Counter(ids[url]).items() if n > 1):
            yield f"{url}: two elements have the id {name}"
        pictures = {
            posixpath.normpath(posixpath.join(posixpath.dirname(url), unquote(html.unescape(src))))
            for src in re.findall(r'\ssrc="([^":]+)"', page)
        }
        weight = len(page.encode()) + sum(
            (out / name).stat().st_size for name in pictures if (out / name).is_file() and not name.endswith(".js")
        )
        if weight > PAGE_BYTES:
            yield f"{url}: {weight / 1000:.0f} KB with its pictures, at most {PAGE_BYTES // 1000}: split the notebook"
        for tag in re.findall(r"<(?!/|!|base )[^>]+>", page):
            for kind, target in LINK.findall(tag):
                target, outside = html.unescape(target), re.match(r"[a-z][a-z0-9+.-]*:|//", html.unescape(target))
                if outside:
                    if not tag.startswith(("<a ", '<link rel="canonical"')) and not target.startswith("data:"):
                        yield f"{url}: loads {target} from the network"
                    continue
                path, _, anchor = target.partition("#")
                path = (
                    posixpath.normpath(posixpath.join(posixpath.dirname(url), unquote(path.partition("?")[0])))
                    if path
                    else url
                )
                if not (out / path).is_file():
                    yield f"{url}: link to {target}, which does not exist"
                elif anchor and path in ids and unquote(anchor) not in ids[path]:
                    yield f"{url}: link to {target}: the page has no such anchor"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="build into a temporary folder and only report")
    parser.add_argument("--out", type=Path, help="folder for the site; default: output-dir of _quarto.yml")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository; default: the one this file lies in")
    args = parser.parse_args(argv)
    try:
        import pypandoc  # noqa: F401
    except ImportError:
        print("docs: pypandoc is missing: pip install -e '.[docs]'", file=sys.stderr)
        return 2
    root, start = args.root.resolve(), time.perf_counter()
    out = args.out.resolve() if args.out else None
    if out and out.exists() and any(out.iterdir()) and not (out / "search.js").exists():
        print(f"docs: {args.out} holds something that is not a site; name an empty or a new folder", file=sys.stderr)
        return 2
    os.chdir(root)
    with tempfile.TemporaryDirectory() as folder:
        site = build(root, Path(folder) / "site")
        size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        if not args.check:
            out = out or root / site.output
            if out.exists():
                shutil.rmtree(out)
            shutil.move(Path(folder) / "site", out)
    slowest = sorted(site.seconds.items(), key=lambda item: -item[1])
    print("slowest parts: " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in slowest))
    for note in site.warnings:
        print(f"warning: {note}")
    for problem in dict.fromkeys(site.problems):
        print(f"problem: {problem}")
    print(
        f"docs: {len(site.pages)} pages, {size / 1e6:.1f} MB, {len(set(site.problems))} problems, "
        f"{len(site.warnings)} warnings, {time.perf_counter() - start:.0f} s"
        + ("" if args.check else f"; open {os.path.relpath(out / 'index.html')}")
    )
    return int(bool(site.problems))


if __name__ == "__main__":
    sys.exit(main())
