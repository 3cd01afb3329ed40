"""Verdicts expire when the code that made them changes, and only then.

Two hundred mutations of the package are compared with what the runs were seen to execute."""

import ast
import copy
import random
from pathlib import Path

import pytest

from pvlit.core.settings import load_settings
from pvlit.ledger.closure import Graph, Kept, Sources, code_graph, compare, patched, summarize
from pvlit.ledger.evidence import load_evidence, notebook_of

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = load_settings(ROOT)
EVIDENCE = {f"{p.parent.name}/{p.stem}": load_evidence(p) for p in sorted(SETTINGS.results.glob("*/*.json"))}
NOTEBOOKS = {name: notebook_of(evidence["experiment"], SETTINGS) for name, evidence in EVIDENCE.items()}
MUTATIONS = 200


def module_name(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PACKAGE = {module_name(f): f for f in sorted((ROOT / "pvlit").rglob("*.py")) if f.name != "_modidx.py"}


def definitions(tree):
    "Yield (name, node) of a module's top level; a method added by `@patch` has the name of its class."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield (patched(node) or [node.name])[-1], node


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
        something = isinstance(node, ast.Return) and node.value is not None
        if something and getattr(node.value, "value", node) is not None and self.turn():
            self.what = "returns nothing"
            return ast.Return(ast.Constant(None))
        return super().visit(node)


def mutated(node, draw):
    """Return (changed copy, what changed) of a definition, or None when nothing in it can change.

    Annotations and the docstring are left alone."""

    def bare(n):
        n = copy.deepcopy(n)
        # the annotation of its first parameter names the class that gets a patched method
        method_of = n.args.args[0] if isinstance(n, ast.FunctionDef) and patched(n) else None
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


class Laboratory:
    "The package as it is, from which one module at a time is changed."

    def __init__(self):
        self.kept = Kept()
        self.base = Sources(kept=self.kept)
        self.graphs = {name: Graph.read(evidence["code"]) for name, evidence in EVIDENCE.items()}
        self.now = {name: code_graph(NOTEBOOKS[name], self.base, like=g) for name, g in self.graphs.items()}
        self.ran = {name: {n.label for n in g.nodes if n.ran} for name, g in self.graphs.items()}

    def expired(self, module, text):
        "Return the evidence that expires, and the one that only notes a change, when a module has another text."
        sources = Sources(kept=self.kept)
        package = self.base.module(module)["package"]
        sources.modules = {**self.base.modules, module: {**self.kept.summary(text), "package": package}}
        sources.resolved = {key: found for key, found in self.base.resolved.items() if key[0] != module}
        gone, noted = set(), set()
        for name, graph in self.now.items():
            if not any(node.label.startswith(f"{module}:") for node in graph.nodes):
                continue
            changes = compare(self.graphs[name], code_graph(NOTEBOOKS[name], sources, like=self.graphs[name]))
            gone |= {name} if changes.ran else set()
            noted |= {name} if changes.idle else set()
        return gone, noted


@pytest.fixture(scope="module")
def laboratory():
    return Laboratory()


def sample(draw, count):
    "Definitions drawn from the whole package, each with a change: (module, name, text of the changed module, what)."
    trees = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in PACKAGE.items()}
    everything = [(module, name, node) for module, tree in trees.items() for name, node in definitions(tree)]
    while count:
        module, name, node = draw.choice(everything)
        if (found := mutated(node, draw)) is None:
            continue
        tree = copy.copy(trees[module])
        tree.body = [found[0] if n is node else n for n in tree.body]
        yield module, name, ast.unparse(tree), found[1]
        count -= 1


# --- the property -----------------------------------------------------------------------------------------------------


def test_the_repository_is_fresh(laboratory):
    for name, graph in laboratory.graphs.items():
        assert not compare(graph, laboratory.now[name]).ran, name


def test_two_hundred_mutations_expire_what_was_executed_and_nothing_else(laboratory):
    truth, said, noted, checks = 0, 0, 0, 0
    for module, name, text, what in sample(random.Random(20), MUTATIONS):
        key = f"{module}:{name}"
        gone, idle = laboratory.expired(module, text)
        ran = {e for e in EVIDENCE if key in laboratory.ran[e]}
        reached = {e for e, g in laboratory.now.items() if any(n.label == key for n in g.nodes)}
        missed = ran - gone
        if missed and only_refuses(what, text, module):
            checks += 1  # a check of arguments cannot change a number of a run that passed it
            continue
        assert not missed, f"{key} ({what}) was executed by {sorted(missed)}, whose verdicts did not expire"
        assert gone <= reached, f"{key} ({what}) expired what cannot reach it"
        truth, said, noted = truth + len(ran), said + len(gone), noted + len(idle)
    pairs = MUTATIONS * len(EVIDENCE)
    found = f"{truth} executed, {said} expired, {noted} noted, {checks} in checks of arguments"
    print(f"\n{MUTATIONS} mutations, {pairs} pairs: {found}")
    assert truth >= 20, "the sample hardly touches what is executed, so it tests nothing"


def only_refuses(what, text, module):
    "Whether a mutated module has the same form as before once what only refuses is left out."
    before = ast.unparse(ast.parse(PACKAGE[module].read_text(encoding="utf-8")))
    return summarize(text)["definitions"] == summarize(before)["definitions"]


def test_looks_change_nothing(laboratory):
    "Comments, docstrings, annotations, blank lines and formatting of every module of the package."
    for module, file in PACKAGE.items():
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            defined = isinstance(node, (ast.FunctionDef, ast.ClassDef))
            if defined and ast.get_docstring(node, clean=False) is not None:
                node.body[0].value.value = "Other words."
            if isinstance(node, ast.FunctionDef):
                node.returns = ast.Constant("anything")
        before = compare_forms(module, text, laboratory)
        assert compare_forms(module, ast.unparse(tree), laboratory) == before, module
        assert compare_forms(module, "# a comment\n\n" + text + "\n# another\n", laboratory) == before, module


def compare_forms(module, text, laboratory):
    "Return the summary of a module without the places of its lines."
    return {k: v for k, v in laboratory.kept.summary(text).items() if k != "spans"}
