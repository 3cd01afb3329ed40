"""Verdicts expire when the code they rest on changes, and only then: 200 mutations of the package, against what the experiments were seen to execute."""

import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pvlit.ledger.closure import Sources, closure
from pvlit.lab.runs import experiment_notebook
from pvlit.core.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = {
    f"{path.parent.name}/{path.stem}": json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(load_settings(ROOT).results.glob("*/*.json"))
}
FEW = ["image", "star 4", "cut 4"]  # arms of an experiment that lets them be chosen
MUTATIONS = 200

# Runs the cells of an experiment up to the statement that makes its rows, one seed, in this process, and lists every definition of the package that was called.
TRACE = """
import ast, json, os, sys, threading
from pathlib import Path
root, notebook, out, given = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
called = set()
def note(frame, event, arg):
    if event == "call" and "pvlit" in frame.f_code.co_filename: called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))
import matplotlib
matplotlib.use("Agg")
cells = [c for c in json.load(open(notebook, encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
space = {"display": lambda *a: None, "__name__": "__main__"}
def run_to_rows():
    for cell in cells:
        for node in ast.parse("".join(cell["source"])).body:
            makes_rows = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "rows"
            if makes_rows: threading.setprofile(note); sys.setprofile(note)
            exec(compile(ast.Module([node], []), "cell", "exec"), space)
            if makes_rows: sys.setprofile(None); return
        if "parameters" in cell["metadata"].get("tags", []): space.update(seeds=space["seeds"][:1], workers=1, run_folder=out, **given)
run_to_rows()
json.dump(sorted(called), open(Path(out) / "called.json", "w"))
os._exit(0)
"""


def patched(node):
    "Whether a function is decorated with fastcore's `@patch`."
    return any(isinstance(n, ast.Name) and n.id == "patch" for d in node.decorator_list for n in ast.walk(d))


def definitions(tree):
    "The definitions of a module's top level as (name, first line, last line, node); a method added by `@patch` has the name of its class."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield (
                node.args.args[0].annotation.id if patched(node) else node.name,
                min([node.lineno] + [d.lineno for d in node.decorator_list]),
                node.end_lineno,
                node,
            )


def module_name(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PACKAGE = {module_name(file): file for file in sorted((ROOT / "pvlit").rglob("*.py")) if file.name != "_modidx.py"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    "For each piece of evidence: the definitions that its experiment was seen to call."

    def trace(route):
        experiment, family = route
        folder, given = (
            tmp_path_factory.mktemp(experiment.replace("/", "_")),
            {"family": family, "only": FEW} if family else {},
        )  # which functions it goes through; all else as in the smoke run
        subprocess.run(
            [
                sys.executable,
                "-c",
                TRACE,
                ROOT,
                experiment_notebook(experiment, load_settings(ROOT)),
                folder,
                json.dumps(given),
            ],
            cwd=ROOT / "nbs/experiments",
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=600,
        )
        return {
            f"{names[file]}:{name}"
            for file, line in json.loads((folder / "called.json").read_text())
            if file in places
            for name, first, last in places[file]
            if first <= line <= last
        }

    places = {
        str(file): [
            (name, first, last) for name, first, last, _ in definitions(ast.parse(file.read_text(encoding="utf-8")))
        ]
        for file in PACKAGE.values()
    }
    names = {str(file): module for module, file in PACKAGE.items()}
    routes = {name: (evidence["experiment"], evidence["params"].get("family")) for name, evidence in EVIDENCE.items()}
    once = list(dict.fromkeys(routes.values()))
    with ThreadPoolExecutor(2) as pool:
        traced = dict(zip(once, pool.map(trace, once)))
    return {name: traced[route] for name, route in routes.items()}


# --- mutations --------------------------------------------------------------------------------------------------------


class Change(ast.NodeTransformer):
    "Change the n-th thing in a definition that can change a result."

    SWAPS = {
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Add,
        ast.Div: ast.Mult,
        ast.Lt: ast.GtE,
        ast.LtE: ast.Gt,
        ast.Gt: ast.LtE,
        ast.GtE: ast.Lt,
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.And: ast.Or,
        ast.Or: ast.And,
        ast.Is: ast.IsNot,
        ast.IsNot: ast.Is,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    }

    def __init__(self, n):
        self.n, self.count, self.what = n, 0, ""

    def turn(self):
        self.count += 1
        return self.count - 1 == self.n

    def visit_Constant(self, node):
        if isinstance(node.value, (int, float)) and not isinstance(node.value, complex) and self.turn():
            self.what = f"{node.value} -> {node.value + 1}" if not isinstance(node.value, bool) else f"not {node.value}"
            return ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
        return node

    def visit(self, node):
        swap = self.SWAPS.get(type(node))
        if swap and self.turn():
            self.what = f"{type(node).__name__} -> {swap.__name__}"
            return swap()
        returns = (
            isinstance(node, ast.Return) and node.value is not None and getattr(node.value, "value", node) is not None
        )  # `return None` is nothing already
        if returns and self.turn():
            self.what = "returns nothing"
            return ast.Return(ast.Constant(None))
        return super().visit(node)


def mutated(node, draw):
    "(changed copy, what changed) of a definition, annotations and docstring left alone; None when nothing in it can change."

    def bare(n):
        n = copy.deepcopy(n)
        method_of = (
            n.args.args[0] if isinstance(n, ast.FunctionDef) and patched(n) else None
        )  # this annotation names the class that gets the method
        for inner in ast.walk(n):
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner.returns = None
            if isinstance(inner, ast.arg) and inner is not method_of:
                inner.annotation = None
        return n

    counter = Change(-1)
    counter.visit(bare(node))
    if not counter.count:
        return None
    change = Change(draw.randrange(counter.count))
    return ast.fix_missing_locations(change.visit(bare(node))), change.what


def with_change(base, folder, module, text):
    "Sources that read one module from another text; what was read of the others is kept."
    file = folder / PACKAGE[module].relative_to(ROOT / "pvlit")
    original = file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    sources = Sources("pvlit", folder)
    sources.modules = {name: read for name, read in base.modules.items() if name != module}
    sources.examined = {key: found for key, found in base.examined.items() if key[0] != module}
    sources.module(module)
    file.write_text(original, encoding="utf-8")
    return sources


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    "A copy of the package with the closures of all evidence taken from it."
    folder = tmp_path_factory.mktemp("copy") / "pvlit"
    shutil.copytree(ROOT / "pvlit", folder, ignore=shutil.ignore_patterns("__pycache__"))
    base = Sources("pvlit", folder)
    return folder, base, {name: closure(*evidence["functions"], sources=base) for name, evidence in EVIDENCE.items()}


def expired(laboratory, module, text):
    folder, base, before = laboratory
    sources = with_change(base, folder, module, text)
    return {
        name for name, evidence in EVIDENCE.items() if closure(*evidence["functions"], sources=sources) != before[name]
    }


def sample(draw, count):
    "Definitions drawn from the whole package, each with a change: (module, name, text of the changed module, what)."
    trees = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in PACKAGE.items()}
    everything = [(module, name, node) for module, tree in trees.items() for name, _, _, node in definitions(tree)]
    while count:
        module, name, node = draw.choice(everything)
        if (found := mutated(node, draw)) is None:
            continue
        tree = copy.copy(trees[module])
        tree.body = [found[0] if n is node else n for n in tree.body]
        yield module, name, ast.unparse(tree), found[1]
        count -= 1


# --- the property -----------------------------------------------------------------------------------------------------


def test_two_hundred_mutations_expire_what_was_executed_and_nothing_else(laboratory, executed, record_property):
    truth, said, held = set(), set(), set()
    for trial, (module, name, text, what) in enumerate(sample(random.Random(20), MUTATIONS)):
        key = f"{module}:{name}"
        gone = expired(laboratory, module, text)
        said |= {(trial, experiment) for experiment in gone}
        truth |= {(trial, experiment) for experiment in EVIDENCE if key in executed[experiment]}
        held |= {(trial, experiment) for experiment in EVIDENCE if key in laboratory[2][experiment]}
        missed = [e for e in EVIDENCE if key in executed[e] and e not in gone]
        assert not missed, f"{key} ({what}) was executed by {missed}, whose verdicts did not expire"
    assert said == held, "a verdict expired without holding the mutated function, or held it and did not"
    pairs = MUTATIONS * len(EVIDENCE)
    precision = len(said & truth) / len(said)
    print(
        f"\n{MUTATIONS} mutations, {len(EVIDENCE)} experiments, {pairs} pairs: {len(truth)} executed the mutated definition, {len(said)} expired; recall 100 %, "
        f"precision {precision:.0%} against what a smoke run executes, 100 % against what can be reached"
    )
    assert len(truth) >= 20, "the sample hardly touches what is executed, so it tests nothing"


def test_looks_change_nothing(laboratory):
    "Comments, docstrings, annotations, blank lines and formatting of every module of the package."
    for module, file in PACKAGE.items():
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
                node.body[0].value.value = "Other words."
            if isinstance(node, ast.FunctionDef):
                node.returns = ast.Constant("anything")
        assert not expired(laboratory, module, ast.unparse(tree)), module
        assert not expired(laboratory, module, "# a comment\n\n" + text + "\n# another\n"), module


def test_keeping_what_was_read_changes_no_result(laboratory):
    "The mutations above reuse what was read of untouched modules; five of them read everything anew."
    folder, base, _ = laboratory
    for module, name, text, _ in sample(random.Random(3), 5):
        quick = {
            e: closure(*evidence["functions"], sources=with_change(base, folder, module, text))
            for e, evidence in EVIDENCE.items()
        }
        file = folder / PACKAGE[module].relative_to(ROOT / "pvlit")
        original = file.read_text(encoding="utf-8")
        file.write_text(text, encoding="utf-8")
        assert {
            e: closure(*evidence["functions"], sources=Sources("pvlit", folder)) for e, evidence in EVIDENCE.items()
        } == quick, (module, name)
        file.write_text(original, encoding="utf-8")
