"""What `works` means in the catalogue of papers: every such row is held to the contract, without a line of its own."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pvlit.core.settings import load_settings
from pvlit.ledger.claims import load_claims
from pvlit.ledger.shown import evidence_table
from pvlit.ledger.table import ledger
from pvlit.papers.catalogue import catalog, new_paper, table_under, thumbnail
from pvlit.papers.fitness import problems
from pvlit.papers.pages import citation, cost_table

ROOT = Path(__file__).resolve().parents[1]
WORKING = catalog(status="works", settings=load_settings(ROOT))
UNREVIEWED = {  # in the new form, and nobody but the writer has looked at it yet
    "curvature_invariant_attack",
    "dctc_loss",
    "oeformer_laplace_orientation",
    "recompression_residual_forensics",
    "shared_feature_calibration",
    "supervised_view_weighting",
    "vfpsie",
}
each = pytest.mark.parametrize("paper", WORKING, ids=lambda p: p.slug)
HEADINGS = [
    "What it does",
    "The evidence",
    "Use it in your code",
    "How it works",
    "Departures",
    "Misprints",
    "Ambiguities",
    "Criticisms",
    "The claims, in miniature",
    "Limits, and what to read next",
]


def cells(paper):
    return json.loads((ROOT / paper.place).read_text(encoding="utf-8"))["cells"]


def tagged(paper, tag):
    return [c for c in cells(paper) if tag in c["metadata"].get("tags", [])]


@each
def test_it_keeps_the_contract(paper):
    module = importlib.import_module(paper.module)
    assert problems(module) == []


IMPORTS = """
import os, sys, torch
for module in sys.argv[1:]:
    if os.fork() == 0:
        before = set(sys.modules)
        __import__(module)
        print(module, *sorted(set(sys.modules) - before), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{module} cannot be imported")
"""
HEAVY = {"scipy", "sklearn", "matplotlib", "IPython", "ipywidgets", "PIL", "joblib", "nbformat", "papermill"}


@pytest.fixture(scope="module")
def imports():
    "Paper's module -> what its import loads beside torch; one process for all, which forks for each."
    command = [sys.executable, "-c", IMPORTS, *(paper.module for paper in WORKING)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


@each
def test_it_imports_alone_and_nothing_heavy_but_torch(paper, imports):
    modules = imports[paper.module]
    papers = {m for m in modules if m.startswith("pvlit.papers.") and m.count(".") == 3}
    assert papers == {paper.module}
    assert not {m for m in modules if m.startswith("pvlit.ledger.")}, "a method knows nothing of the ledger"
    assert not HEAVY & {m.partition(".")[0] for m in modules}


@each
def test_its_notebook_says_what_it_must(paper):
    assert {"the paper says", "here", "why"} <= table_under("Departures", paper)[0].keys()
    for row in table_under("Misprints", paper):
        assert {"place", "printed", "what it does", "meant", "shown"} <= row.keys()
    assert tagged(paper, "oracle"), "no cell is tagged oracle"
    assert any("assert" in "".join(c["source"]) or "test_" in "".join(c["source"]) for c in tagged(paper, "oracle")), (
        "the oracle asserts nothing"
    )
    assert thumbnail(paper, settings=load_settings(ROOT)).startswith("data:image/jpeg"), (
        "no picture in a cell tagged thumbnail"
    )


@each
def test_its_notebook_was_executed(paper):
    code = [c for c in cells(paper) if c["cell_type"] == "code"]
    assert tagged(paper, "verdict") and all(c["outputs"] for c in tagged(paper, "verdict")), (
        "the verdict cell has no output"
    )
    assert sum(bool(c["outputs"]) for c in code) >= 5


def stored(paper, call):
    "The text of the output of the cell that makes a call."
    cell = next(c for c in cells(paper) if c["cell_type"] == "code" and call in "".join(c["source"]))
    return "".join("".join(o.get("data", {}).get("text/markdown", [])) for o in cell["outputs"])


@each
def test_its_page_has_the_form(paper):
    text = "\n".join("".join(c["source"]) for c in cells(paper) if c["cell_type"] == "markdown")
    found = re.findall(r"^## (.*?)\s*$", text, re.M)
    assert [heading for heading in found if heading in HEADINGS] == HEADINGS
    assert not [heading for heading in found if heading not in HEADINGS], "what else there is stands below ###"
    assert paper.doi and paper.code, "data/papers.csv: name the DOI, and the official code or that none was found"
    reviewed = (ROOT / f"data/reviews/{paper.slug}.md").exists()
    assert reviewed != (paper.slug in UNREVIEWED), "somebody who did not write it reviews it: CONTRIBUTING, Add a paper"


@each
def test_its_page_shows_what_is_committed(paper):
    settings = load_settings(ROOT)
    for shown in (citation, evidence_table, cost_table):
        assert (
            stored(paper, f'{shown.__name__}("{paper.slug}")').strip() == shown(paper.slug, settings=settings).strip()
        )
    assert "Not measured" not in cost_table(paper.slug, settings)


@each
def test_its_smoke_run_is_not_shown(paper):
    all_cells = cells(paper)
    start = next(i for i, c in enumerate(all_cells) if "## The claims, in miniature" in "".join(c["source"]))
    for cell in all_cells[start:]:
        if cell["cell_type"] == "code" and cell["outputs"]:
            assert "hide-output" in cell["metadata"].get("tags", []), "".join(cell["source"])[:80]


@each
def test_its_use_can_be_copied(paper, tmp_path):
    cell = tagged(paper, "use")
    assert len(cell) == 1, "one cell is tagged use"
    source = "".join(cell[0]["source"])
    assert len(source.splitlines()) <= 14
    file = tmp_path / "copied.py"
    file.write_text(source, encoding="utf-8")
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def recorded():
    return ledger(load_settings(ROOT))


@each
def test_its_claim_has_evidence(paper, recorded):
    claims = load_claims(paper.slug, load_settings(ROOT))
    assert claims and all(c.rule["seeds"] >= 3 for c in claims)
    assert all(f"papers/{paper.family}/{paper.slug}" in c.pages for c in claims)
    rows = [row for row in recorded if row["experiment"] == paper.slug]
    assert any(row["verdict"] in ("supported", "too small", "refuted", "inconclusive") for row in rows), [
        row["reason"] for row in rows
    ]


def test_the_shelf_holds_a_hundred():
    papers = catalog(settings=load_settings(ROOT))
    assert len(papers) == 100 and len({p.family for p in papers}) == 12
    assert all(p.authors and p.idea and p.task for p in papers)
    assert not any(re.search(r"\.$", p.idea) for p in papers)
    built = {
        f.relative_to(ROOT).as_posix()
        for f in (ROOT / "nbs/papers").glob("*/*.ipynb")
        if not f.name.startswith(("_", ".")) and f.stem != "index"
    }
    assert built == {p.place for p in papers if p.status == "works"}, (
        "a notebook without its row, or a row without its notebook"
    )


def test_listing_needs_no_torch(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-c",
            "from pvlit.cli import main; main(['papers', '--search', 'auction'])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "adaptive_auction_emd" in done.stdout and not re.search(r"\b(torch|numpy|scipy)$", done.stderr, re.M)


def test_a_new_paper_begins_as_a_valid_notebook(tmp_path):
    import nbformat

    for name in ("data/papers.csv", "nbs/papers/_template.ipynb", "settings.ini"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    planned = catalog(status="planned", settings=load_settings(ROOT))
    if not planned:
        pytest.skip("every paper works")
    made = new_paper(planned[0].slug, load_settings(tmp_path))
    nbformat.validate(nbformat.read(made, 4))
    text = made.read_text(encoding="utf-8")
    assert f"default_exp papers.{planned[0].family}.{planned[0].slug}" in text and not re.search(
        r"\{(title|slug|family|authors|idea)\}", text
    )
    module = subprocess.run([sys.executable, ROOT / "tools/lint.py", made], capture_output=True, text=True).stdout
    assert "default_exp" not in module and "tag" not in module, module
