"""The rules for notebooks, each broken on purpose, and the hook that lets nbval compare cleaned notebooks."""

import base64
import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patient

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


lint, readme = load("lint"), load("readme")


def md(source, **extra):
    return dict(cell_type="markdown", metadata={}, source=source, **extra)


def code(source, *outputs, tags=(), **extra):
    return dict(
        cell_type="code",
        metadata=dict(tags=list(tags)) if tags else {},
        source=source,
        outputs=list(outputs),
        execution_count=None,
        **extra,
    )


def result(data, mime="text/plain"):
    return dict(output_type="execute_result", data={mime: data}, metadata={}, execution_count=None)


def picture(size):
    return result(base64.b64encode(b"\0" * size).decode(), "image/png")


def write(path, *cells, **metadata):
    cells = [{"id": f"c{i}", **copy.deepcopy(c)} for i, c in enumerate(cells)]
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata={**kernel, **metadata}, cells=cells)))
    return path


HEAD = md("# Title\n\n> A claim.")
EXPORT = (
    "#| export\ndef double(\n    x: float,  # any number\n    *,\n"
    "    times: int = 1,  # how often, at least 0\n) -> float:  # the product\n"
    '    "Double a number `times` times."\n    return x * 2**times'
)
GOOD = [
    HEAD,
    code("#| default_exp demo"),
    code("#| export\nimport math"),
    code("#| hide\nfrom fastcore.test import *"),
    md("Why."),
    code(EXPORT),
    code("double(2)", result("4")),
    md("Then."),
    code("1"),
]
PARAMETERS = code("steps = 3  # optimizer steps\nrate: float = -1e-3\nsizes = [1, 2]", tags=["parameters"])
DATA_CLASS = (
    '#| export\n@dataclass\nclass Point:\n    "Hold a place."\n    x: float  # pixels\n    y: float  # pixels\n\n'
    "    def norm(\n        self,\n        p: float = 2,  # order, at least 1\n    ):\n"
    '        "Measure the distance to the origin."'
)
OVERRIDE = '#| export\nclass Net(nn.Module):\n    "Double."\n    def forward(self, x): return 2 * x'


def rules(path):
    return sorted(f.rule for f in lint.lint_notebook(path))


def test_the_notebooks_of_this_repository_keep_the_rules():
    found, count = lint.lint()
    assert count > 0 and not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    "folder, cells",
    [
        ("nbs", GOOD),
        ("nbs/experiments", [HEAD, PARAMETERS]),
        ("nbs", [HEAD, code("#| default_exp demo"), code(DATA_CLASS)]),
        ("nbs", [HEAD, code("#| default_exp demo"), code(OVERRIDE)]),
    ],
)
def test_good_notebooks_pass(tmp_path, folder, cells):
    assert rules(write(tmp_path / folder / "demo.ipynb", *cells)) == []


def exported(source):
    return [HEAD, code("#| default_exp demo"), code("#| export\n" + source)]


@pytest.mark.parametrize(
    "rule, cells",
    {
        "title": [md("Some text")],
        "title-quote": [md("# Title")],
        "tag": [HEAD, code("1", tags=["nbval-skp"])],
        "nbval-skip": [HEAD, code("#| eval: false\n1")],
        "nbval-skip-flag": [HEAD, code("#| slow\n1")],
        "parameters": [HEAD, PARAMETERS],
        "cell-length": [HEAD, code("x = 1\n" * 61)],
        "prose": [HEAD, code("1"), code("2"), code("3")],
        "syntax": [HEAD, code("def f(:")],
        "imports": exported("import math\nx = 1"),
        "imports-from": [HEAD, code("from math import pi\npi")],
        "picture-size": [HEAD, code("1", picture(80_003))],
        "picture-size-html": [
            HEAD,
            code("1", result(f'<img src="data:image/gif;base64,{"A" * 120_000}">', "text/html")),
        ],
        "absolute-path": [HEAD, code("open('/home/someone/data.csv')")],
        "absolute-path-drive": [HEAD, code(r"open('C:\\data\\x.csv')")],
        "absolute-path-output": [HEAD, code("1", result("PosixPath('/tmp/abc')"))],
        "drawn-object": [HEAD, code("1", result("<matplotlib.legend.Legend at 0x7f>"))],
        "absolute-path-stream": [
            HEAD,
            code("1", dict(output_type="stream", name="stdout", text=["saved\n", "in /work/x\n"])),
        ],
        "absolute-path-prose": [HEAD, md("It is in /Users/me/data.")],
        "code-link": [HEAD, md("See [`f`](other.ipynb).")],
        "stored-error": [
            HEAD,
            code("1/0", dict(output_type="error", ename="ZeroDivisionError", evalue="", traceback=[])),
        ],
        "id": [HEAD, md("x", id="same"), md("y", id="same")],
        "id-missing": [HEAD, md("x", id="")],
        "default_exp": [HEAD, code("#| export\nx = 1")],
        "default_exp-elsewhere": [HEAD, code("#| default_exp other"), code("#| export\nx = 1")],
        "docstring": exported("def f(): return 1"),
        "docstring-class": exported("class A: pass"),
        "docments": exported('def f(x, # one\n      y):\n    "Add."'),
        "docments-shared-line": exported('def f(x, y): # two\n    "Add."'),
        "docments-forward": exported('class A:\n    "Hold."\n    def forward(self, x):\n        "Add."'),
        "docments-method": exported('class A:\n    "Hold."\n    def f(self, x):\n        "Add."'),
        "docments-init": exported('class A:\n    "Hold."\n    def __init__(self, x): pass'),
        "docments-field": exported('@dataclass\nclass A:\n    "Hold."\n    x: int'),
    }.items(),
)
def test_each_broken_rule_is_found(tmp_path, rule, cells):
    found = rules(write(tmp_path / "nbs/demo.ipynb", *cells))
    assert len(found) == 1 and rule.startswith(found[0]), found


@pytest.mark.parametrize(
    "cells",
    [
        [HEAD],
        [HEAD, PARAMETERS, PARAMETERS],
        [HEAD, code("steps = int('3')", tags=["parameters"])],
        [HEAD, code("import math", tags=["parameters"])],
        [HEAD, code("", tags=["parameters"])],
        [HEAD, code('name = "a=b"', tags=["parameters"])],
    ],
)
def test_experiments_have_one_cell_of_literal_parameters(tmp_path, cells):
    assert rules(write(tmp_path / "nbs/experiments/demo.ipynb", *cells)) == ["parameters"]


def test_file_rules(tmp_path):
    assert rules(write(tmp_path / "nbs/b.ipynb", HEAD, widgets={"state": {}})) == ["widget-state"]
    assert rules(write(tmp_path / "nbs/a.ipynb", HEAD, kernelspec={})) == ["kernelspec"]
    assert rules(write(tmp_path / "nbs/b.ipynb", HEAD, md("x" * 400_000))) == ["notebook-size"]
    (tmp_path / "nbs/c.ipynb").write_text("{")
    assert rules(tmp_path / "nbs/c.ipynb") == ["json"]


def test_links_and_formulas_are_no_paths(tmp_path):
    words = r"[a](https://example.org/home/x/work/tmp/y) $f: A \to C:\mathbb{R}$ `../tmp/x` `runs/tmp/a` and /homeward"
    assert (
        rules(write(tmp_path / "nbs/demo.ipynb", HEAD, md(words), code("1", result("iVBOR/tmp/xyz==", "image/png"))))
        == []
    )


def test_modules_come_from_notebooks(tmp_path):
    write(tmp_path / "nbs/demo.ipynb", *GOOD)
    package = tmp_path / "pvlit"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "0"')
    (package / "demo.py").write_text("# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/demo.ipynb.\n")
    assert lint.lint(root=tmp_path) == ([], 1)
    (package / "hand.py").write_text("x = 1\n")
    (package / "orphan.py").write_text("# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/gone.ipynb.\n")
    assert [(f.path.name, f.rule) for f in lint.lint(root=tmp_path)[0]] == [
        ("hand.py", "generated"),
        ("orphan.py", "generated"),
    ]


def test_lint_as_a_command(tmp_path, capsys):
    assert lint.main([str(write(tmp_path / "nbs/demo.ipynb", *GOOD))]) == 0
    assert lint.main([str(write(tmp_path / "nbs/bad.ipynb", md("no title")))]) == 1
    assert re.search(r"bad.ipynb cell 0: title: .+\nlint: 1 notebooks, 1 findings", capsys.readouterr().out)
    assert lint.main([str(tmp_path / "nowhere")]) == 2


def test_lint_takes_progress_bars_out(tmp_path):
    bar = dict(output_type="stream", name="stderr", text="rows: 17%")
    path = write(tmp_path / "nbs/demo.ipynb", *GOOD[:-1], code("1", bar, result("1")))
    assert rules(path) == ["stderr"]
    assert lint.main(["--fix", str(path)]) == 0 and rules(path) == []
    assert json.loads(path.read_text())["cells"][-1]["outputs"] == [result("1")]


def test_nbval_compares_cleaned_notebooks(tmp_path):
    "Outputs without an execution count, as nbdev-clean leaves them: the right one passes, a wrong one fails."
    shutil.copy(ROOT / "conftest.py", tmp_path)
    write(tmp_path / "right.ipynb", HEAD, code("6 * 7", result("42")))
    write(tmp_path / "wrong.ipynb", HEAD, code("6 * 7", result("43")))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "-p",
        "no:cacheprovider",
        "-q",
        "-rA",
        "--color=no",
        "right.ipynb",
        "wrong.ipynb",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patient(300))
    verdicts = dict(re.findall(r"^(PASSED|FAILED) (\w+\.ipynb)", done.stdout, re.M))
    assert verdicts == {"PASSED": "right.ipynb", "FAILED": "wrong.ipynb"}, done.stdout[-3000:]
    assert done.returncode == 1 and "43" in done.stdout


def test_readme_from_a_notebook(tmp_path):
    pixel = base64.b64encode(b"\x89PNG pixel").decode()
    (tmp_path / "CONTRIBUTING.md").touch()
    write(tmp_path / "nbs/core/data.ipynb", HEAD)
    write(
        tmp_path / "nbs/index.ipynb",
        md("# Title\n\n> A claim.\n- order: 1"),
        code("#| hide\nsecret = 1"),
        code("draw()", result(pixel, "image/png"), tags=["hide-input"]),
        code("table()", result("| n |\n|---|\n| 3 |", "text/markdown"), tags=["hide-input"]),
        md(
            "[a](core/data.ipynb) [b](core/data.html#x) [c](../CONTRIBUTING.md) "
            "[d](https://example.org/x.html) [e](#title)\n\n"
            "```\n[f](core/data.ipynb)\n```"
        ),
        code("1 + 1", result("2")),
    )
    assert readme.main(["--root", str(tmp_path), "--check"]) == 1
    assert readme.main(["--root", str(tmp_path)]) == 0 == readme.main(["--root", str(tmp_path), "--check"])
    written = (tmp_path / "README.md").read_text()
    assert "secret" not in written and "draw()" not in written and "order:" not in written and "table()" not in written
    assert (
        "![](nbs/images/index-1.png)" in written
        and (tmp_path / "nbs/images/index-1.png").read_bytes() == b"\x89PNG pixel"
    )
    assert (
        "[a](nbs/core/data.ipynb) [b](nbs/core/data.ipynb) [c](CONTRIBUTING.md) "
        "[d](https://example.org/x.html) [e](#title)" in written
    )
    assert (
        "\n[f](core/data.ipynb)\n" in written
        and "| 3 |" in written
        and "```python\n1 + 1\n```\n\n```text\n2\n```" in written
    )
    (tmp_path / "nbs/images/index-1.png").write_bytes(b"old")
    assert readme.main(["--root", str(tmp_path), "--check"]) == 1
    (tmp_path / "CONTRIBUTING.md").unlink()
    assert readme.main(["--root", str(tmp_path)]) == 1


def test_the_readme_is_fresh():
    assert readme.main(["--check"]) == 0
