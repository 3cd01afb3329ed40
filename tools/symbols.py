"""Which words between backticks become links to the symbol of that name: only those that can mean nothing else.

A symbol of the page's own module, one that the notebook imports, or a name that no other module has and that is no
ordinary word. nbdev's lookup takes the last module that has the name, so that `chain`, a coupling, led to a helper of
the ledger.
"""

import ast
import re
from functools import cache

from nbdev.doclinks import NbdevLookup


@cache
def owners() -> dict[str, set[str]]:
    "Map the name of every exported symbol to the modules that define it."
    from pvlit import _modidx

    found = {}
    for module, symbols in _modidx.d["syms"].items():
        for name in symbols:
            found.setdefault(name.removeprefix(f"{module}."), set()).add(module)
    return found


def imported(sources) -> dict[str, str]:
    "Map the names that cells import from the package to their modules."
    found = {}
    for source in sources:
        for line in re.findall(r"^from +(pvlit[\w.]*) +import +(\([^)]*\)|[^\n(]+)", source, re.M):
            tree = ast.parse(f"from {line[0]} import {line[1]}")
            found |= {alias.asname or alias.name: line[0] for alias in tree.body[0].names}
    return found


def meant(name: str, module: str, names: dict[str, str]) -> str | None:
    "Return the module that `name` belongs to on the page of `module`, which imports `names`; `None` when unclear."
    there = owners().get(name, set())
    first = name.partition(".")[0]
    for candidate in (module, names.get(first)):
        if candidate in there:
            return candidate
    return next(iter(there)) if len(there) == 1 and re.search(r"[A-Z_.]", name.strip("_")) else None


class Links(NbdevLookup):
    "nbdev's links for one page."

    def __init__(self, module, sources=()):
        super().__init__()
        self.module, self.names = module, imported(sources)

    def __getitem__(self, name):
        from pvlit import _modidx

        if name not in owners():
            return super().__getitem__(name) if re.search(r"[A-Z_.]", name) else None
        module = meant(name, self.module, self.names)
        if module is None:
            return None
        address, file = _modidx.d["syms"][module][f"{module}.{name}"]
        settings = _modidx.d["settings"]
        base = f"{settings['doc_host']}{settings['doc_baseurl']}"
        return f"{base.rstrip('/')}/{address}", file, settings["git_url"]


class link_symbols:
    "An nbdev processor that links what is surely a symbol, in text and in outputs."

    def __init__(self, nb):
        self.nb = nb

    def begin(self):
        sources = [cell.source for cell in self.nb.cells if cell.cell_type == "code"]
        exports = [
            c.directives_["default_exp"] for c in self.nb.cells if "default_exp" in getattr(c, "directives_", {})
        ]
        links = Links(f"pvlit.{exports[0][0]}" if exports else "", sources)
        for cell in self.nb.cells:
            if cell.cell_type == "markdown":
                cell.source = links.linkify(cell.source)
            for output in cell.get("outputs", []):
                if "text/markdown" in getattr(output, "data", {}):
                    words = output.data["text/markdown"]
                    output.data["text/markdown"] = links.linkify("".join(words))
