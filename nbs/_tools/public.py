"Find the public names of the package, and link the names that a text mentions"

import ast
import importlib
import inspect
import pkgutil
import re
from functools import cache
from types import ModuleType

LIB = "trainopt_nb"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def modules() -> dict[str, ModuleType]:
    "Return the modules of the package that have public names, by full name"
    names = [info.name for info in pkgutil.walk_packages(importlib.import_module(LIB).__path__, f"{LIB}.")]
    found = {name: importlib.import_module(name) for name in names if "._" not in name}
    return {name: module for name, module in found.items() if getattr(module, "__all__", ())}


@cache
def nodes(
    module: str,  # such as `trainopt_nb.runs.run`
) -> dict[str, ast.stmt]:  # name -> statement that defines it
    "Parse the definitions of a module"
    found = {}
    for node in ast.parse(inspect.getsource(modules()[module])).body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found[node.name] = node
        for target in targets(node):
            found.setdefault(target, node)
    return found


def targets(node: ast.stmt) -> list[str]:
    "Return the names that an assignment defines"
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return []
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return [n.id for n in (target.elts if isinstance(target, ast.Tuple) else [target]) if hasattr(n, "id")]


def find(
    full: str,  # such as `trainopt_nb.runs.run.Run`
) -> tuple:  # module, name, object and statement
    "Look up a public name"
    module, _, name = full.rpartition(".")
    return modules()[module], name, getattr(modules()[module], name), nodes(module)[name]


@cache
def places() -> dict[str, str]:
    "Map the full name of each public name to the shorter one that users import, or to an empty text"
    top = importlib.import_module(LIB)
    found = {f"{module}.{name}": "" for module, each in modules().items() for name in each.__all__}
    return found | {f"{getattr(top, name).__module__}.{name}": f"{LIB}.{name}" for name in top.__all__}


@cache
def words() -> dict[str, str]:
    "Map what a text may call a public name to its full name, without names that two modules share"
    found = {}
    for full in places():
        for word in (full.rpartition(".")[2], full, full.removeprefix(f"{LIB}.")):
            found[word] = "" if found.get(word, full) != full else full
    found |= {short.rpartition(".")[2]: full for full, short in places().items() if short}
    return {word: full for word, full in found.items() if full}


def reference(
    text: str,  # what stands between backticks
) -> str:  # a role of Sphinx, or an empty text
    "Link a text to the one public name that it can mean"
    name = text.removesuffix("()")
    sure = text.endswith("()") or "_" in name or name[:1].isupper() or places().get(words().get(name))
    return f"{{py:obj}}`{name} <{words()[name]}>`" if sure and name in words() and not name.isupper() else ""


def link(text: str) -> str:
    "Link the names in a docstring or comment"
    return re.sub(r"`([^`\n]+)`", lambda m: reference(m[1]) or m[0], text)
