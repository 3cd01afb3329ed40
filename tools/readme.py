"""Write README.md from nbs/index.ipynb, without Quarto.

    python tools/readme.py            write README.md and the figures it shows (nbs/images/index-*)
    python tools/readme.py --check    change nothing; exit with 1 when they are stale or a link leads nowhere

Markdown cells come over as they are, code cells with their outputs. Of a cell tagged `hide-input` (or `#| echo: false`)
only the outputs are kept, of a `#| hide` cell nothing. Relative links are rewritten so that they work from the top of
the repository.
"""

import argparse
import base64
import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTICE = (
    "<!-- Written by tools/readme.py from nbs/index.ipynb: edit the notebook, then run `python tools/readme.py`. -->"
)
PICTURES = {"image/png": "png", "image/gif": "gif", "image/jpeg": "jpg", "image/svg+xml": "svg"}
TARGET = re.compile(r'(\]\(|\b(?:src|href)=")([^)"\s]+)')


def text(value):
    return value if isinstance(value, str) else "".join(value or "")


def fenced(body, language=""):
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", body)), default=0))
    return f"{ticks}{language}\n{body.rstrip()}\n{ticks}"


def output_text(output, figures):
    "Markdown of one stored output; pictures are added to `figures` (path under nbs/ -> bytes)."
    if output["output_type"] == "stream":
        return fenced(text(output["text"]), "text") if output["name"] == "stdout" else ""
    data = output.get("data", {})
    for mime, suffix in PICTURES.items():
        if mime in data:
            name, value = f"images/index-{len(figures) + 1}.{suffix}", text(data[mime])
            figures[name] = value.encode() if suffix == "svg" else base64.b64decode(value)
            return f"![]({name})"
    if "text/markdown" in data:
        return text(data["text/markdown"]).strip()
    if "text/html" in data:
        return text(data["text/html"]).strip()
    return fenced(text(data.get("text/plain", "")), "text")


def cell_text(cell, figures):
    source = text(cell["source"]).strip()
    if cell["cell_type"] == "markdown":
        return source
    if cell["cell_type"] != "code" or re.search(r"^#\|\s*(hide|default_exp)\b", source, re.M):
        return ""
    code = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
    hidden = "hide-input" in cell["metadata"].get("tags", []) or re.search(r"^#\|\s*echo:\s*false", source, re.M)
    alt = (re.findall(r"^#\|\s*fig-alt:\s*(.+?)\s*$", source, re.M) or [""])[0].strip("\"'")
    shown = [output_text(o, figures).replace("![]", f"![{alt}]", 1) for o in cell["outputs"]]
    return "\n\n".join(filter(None, ["" if hidden or not code else fenced(code, "python"), *shown]))


def relink(markdown, root, figures, broken):
    "Make links relative to the repository instead of to nbs/; pages of the site become their notebooks."

    def move(match):
        opening, target = match.groups()
        if re.match(r"[a-z][a-z0-9+.-]*:|//|#", target):
            return match[0]
        path, mark, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join("nbs", path))
        if path.endswith(".html"):
            path = path.removesuffix(".html") + ".ipynb"
        if not (root / path).exists() and path.removeprefix("nbs/") not in figures:
            broken.append(target)
        return opening + path + (mark + anchor if not path.endswith(".ipynb") else "")

    parts = re.split(r"(^```.*?^```[^\n]*$)", markdown, flags=re.M | re.S)
    return "".join(part if i % 2 else TARGET.sub(move, part) for i, part in enumerate(parts))


def readme(root):
    "`(text, figures, broken links)` of the README of the repository at `root`."
    cells = json.loads((root / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    figures, broken = {}, []
    parts = [cell_text(c, figures) for c in cells]
    parts[0] = re.sub(r"\n- [\w-]+:.*$", "", parts[0], flags=re.M).strip()  # front matter below the title
    body = relink("\n\n".join(filter(None, parts)), root, figures, broken)
    return f"{NOTICE}\n\n{body}\n", {root / "nbs" / name: data for name, data in figures.items()}, broken


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when README.md is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository; default: the one this file lies in")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    body, figures, broken = readme(root)
    for target in broken:
        print(f"readme: nbs/index.ipynb links to {target}, which does not exist")
    wanted = {root / "README.md": body.encode(), **figures}
    stale = [p for p, data in wanted.items() if not p.exists() or p.read_bytes() != data]
    left = [p for p in sorted((root / "nbs/images").glob("index-*")) if p not in figures]
    if args.check:
        for path in stale + left:
            print(f"readme: {path.relative_to(root)} is stale: run `python tools/readme.py`")
    else:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[path])
        for path in left:
            path.unlink()
        print(f"readme: {len(body.splitlines())} lines, {len(figures)} figures, {len(stale) + len(left)} files changed")
    return int(bool(broken or args.check and stale + left))


if __name__ == "__main__":
    sys.exit(main())
