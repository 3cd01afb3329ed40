"""The house: no import points up, none runs in a circle, and methods never import the ledger."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pvlit"
FLOORS = {  # who may import whom: only what stands lower
    "core": 0,
    "lab": 1,
    "worlds": 1,
    "ledger": 2,
    "pseudo_video": 3,
    "motion_coherence": 3,
    "papers": 3,
    "crossings": 4,
    "cli": 5,
}


def name_of(file):
    return ".".join(["pvlit", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {name_of(f): f for f in sorted(PACKAGE.rglob("*.py")) if f.name != "_modidx.py"}


def imports(name, inside=True):
    "Yield the modules of the package that a module imports; with `inside` also within functions."
    file, tree = MODULES[name], ast.parse(MODULES[name].read_text(encoding="utf-8"))
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            found = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            found = [f"{whole}.{a.name}" if f"{whole}.{a.name}" in MODULES else whole for a in node.names]
        else:
            continue
        yield from (m for m in found if m in MODULES)


def floor(module):
    return module.split(".")[1] if "." in module else ""


def test_no_import_points_up():
    wrong = []
    for name in MODULES:
        own = floor(name)
        for other in imports(name):
            there = floor(other)
            if own and there and there != own and FLOORS[there] >= FLOORS[own]:
                wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_every_part_has_its_floor():
    assert {floor(m) for m in MODULES} - {""} == set(FLOORS)


def test_methods_never_import_the_ledger():
    methods = [
        m
        for m in MODULES
        if floor(m) in ("core", "lab", "worlds", "pseudo_video", "motion_coherence", "papers", "crossings")
    ]
    wrong = [f"{m} imports {o}" for m in methods for o in imports(m) if floor(o) == "ledger"]
    assert not wrong, "\n".join(wrong)


def test_a_paper_imports_no_other_paper():
    papers = [m for m in MODULES if m.count(".") == 3 and floor(m) == "papers"]
    wrong = [
        f"{m} imports {o}" for m in papers for o in imports(m) if floor(o) == "papers" and o.count(".") == 3 and o != m
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_runs_in_a_circle():
    graph = {name: set(imports(name, inside=False)) for name in MODULES}
    done, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError(" -> ".join([*path[path.index(name) :], name]))
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


def test_no_module_takes_a_private_name_of_another():
    wrong = []
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("pvlit")):
                wrong += [
                    f"{name}: {a.name}" for a in node.names if a.name.startswith("_") and not a.name.startswith("__")
                ]
    assert not wrong, "\n".join(wrong)
