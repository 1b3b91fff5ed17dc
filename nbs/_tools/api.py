"Public names of the package as MyST directives, read from its source: signatures, comments of parameters, errors"

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIB = "trainopt_nb"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NOT_FOR_READERS = re.compile(r"^(noqa(: \w+)?|fmt: \w+)\s*")


class Module(NamedTuple):
    "One module, parsed"

    name: str  # such as `trainopt_nb.api.fit`
    public: tuple  # names in `__all__`
    nodes: dict  # public name -> where it is defined
    comments: dict  # line -> text of its comment
    imported: dict  # name -> module of ours that it comes from
    lines: dict  # line -> whether nothing but a comment stands there


@cache
def module(
    name: str,  # such as `trainopt_nb.api.fit`
) -> Module:
    "Parse a module"
    path = ROOT / (name.replace(".", "/") + ".py")
    text = (path if path.exists() else ROOT / name.replace(".", "/") / "__init__.py").read_text()
    tree, comments, alone = ast.parse(text), {}, {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = NOT_FOR_READERS.sub("", token.string.lstrip("# "))
            alone[token.start[0]] = not token.line[: token.start[1]].strip()
    nodes, public, imported = {}, (), {}
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            nodes[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = _origin(name, node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in targets(node):
                nodes.setdefault(target, node)
    if "__all__" in nodes:
        public = tuple(ast.literal_eval(nodes["__all__"].value))
    return Module(name, public, nodes, comments, imported, alone)


def targets(node):
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return [
        item.id
        for item in (target.elts if isinstance(target, ast.Tuple) else [target])
        if hasattr(item, "id")
    ]


def _origin(name, node):
    "Full name of the module that a `from … import` names"
    if not node.level:
        return node.module
    base = name.split(".")[: -node.level]
    return ".".join([*base, *([node.module] if node.module else [])])


def origin(
    home: str,  # a module
    name: str,  # that is used there
) -> str:  # the module in which it is defined
    "Follow imports to the module of ours that a name is from"
    while home.split(".")[0] == LIB and name in module(home).imported:
        home = module(home).imported[name]
    return home


def modules() -> list[str]:
    "All modules of the package that have public names, without the package itself"
    files = sorted((ROOT / LIB).glob("**/*.py"))
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files if not f.name.startswith("_")]
    return [name for name in names if module(name).public]


@cache
def places() -> dict[str, str]:
    "Full name of each public name -> the shorter one under which users import it, where there is one"
    found = {f"{name}.{public}": "" for name in modules() for public in module(name).public}
    return found | {f"{origin(LIB, name)}.{name}": f"{LIB}.{name}" for name in module(LIB).public}


@cache
def words() -> dict[str, str]:
    "What prose may call a public name -> its full name; a name that two modules have is left out"
    found = {}
    for full in places():
        for word in (full.rpartition(".")[2], full, full.removeprefix(f"{LIB}.")):
            found[word] = "" if found.get(word, full) != full else full
    top = module(LIB)
    found |= {name: f"{origin(LIB, name)}.{name}" for name in top.public}
    return {word: full for word, full in found.items() if full}


# signatures


class _Qualify(ast.NodeTransformer):
    "Classes of ours in an annotation by their documented names"

    def __init__(self, home):
        self.home = home

    def visit_Name(self, node):
        full = f"{origin(self.home.name, node.id)}.{node.id}"
        return ast.Name(full) if full in places() else node


def _type(home, node):
    return (
        ""
        if node is None
        else ast.unparse(_Qualify(home).visit(ast.parse(ast.unparse(node), mode="eval"))).strip()
    )


def _parameter(home, arg, default, star=""):
    kind, value = _type(home, arg.annotation), "" if default is None else ast.unparse(default)
    text = f"{star}{arg.arg}" + (f": {kind}" if kind else "")
    return text + ((" = " if kind else "=") + value if value else "")


def signature(
    home: Module,
    node: ast.FunctionDef,
    skip: int = 0,  # parameters to leave out at the beginning: `self`
) -> str:  # such as `(path: str = '') -> Run`
    "The signature of a function as it is written"
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    parts = [_parameter(home, arg, default) for arg, default in zip(plain, defaults, strict=True)][skip:]
    if a.vararg:
        parts.append(_parameter(home, a.vararg, None, "*"))
    elif a.kwonlyargs:
        parts.append("*")
    parts += [
        _parameter(home, arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)
    ]
    if a.kwarg:
        parts.append(_parameter(home, a.kwarg, None, "**"))
    gives = _type(home, node.returns)
    return f"({', '.join(parts)})" + (f" -> {gives}" if gives else "")


# comments


def _head_end(node):
    "Last line of the head of a function"
    return max(node.body[0].lineno - 1, node.lineno)


def _comment_within(home, first, last):
    "The comment on the last of these lines that has one beside code"
    found = [home.comments[n] for n in range(first, last + 1) if home.comments.get(n) and not home.lines[n]]
    return found[-1] if found else ""


def _spans(node):
    "Name of each parameter -> the lines from it to the next one"
    a = node.args
    args = [
        *a.posonlyargs,
        *a.args,
        *([a.vararg] if a.vararg else []),
        *a.kwonlyargs,
        *([a.kwarg] if a.kwarg else []),
    ]
    args.sort(key=lambda arg: (arg.lineno, arg.col_offset))
    ends = [arg.lineno - 1 for arg in args[1:]] + [_arguments_end(node)] if args else []
    return {arg.arg: (arg.lineno, end) for arg, end in zip(args, ends, strict=True)}


def _arguments_end(node):
    "Last line on which a parameter stands"
    nodes = [n for n in ast.walk(node.args) if hasattr(n, "end_lineno")]
    return max((n.end_lineno for n in nodes), default=node.lineno)


def parameters(home: Module, node: ast.FunctionDef) -> dict[str, str]:  # name -> comment
    "What the comments beside the parameters say"
    found = {name: _comment_within(home, *span) for name, span in _spans(node).items()}
    if _arguments_end(node) == _head_end(node):  # all on one line, whose comment is about the result
        found = dict.fromkeys(found, "")
    return {name: text for name, text in found.items() if text}


def result(home: Module, node: ast.FunctionDef) -> str:
    "What the comment beside the result says"
    first = _arguments_end(node) if node.args.args or node.args.kwonlyargs else node.lineno
    if _head_end(node) > first:
        first += 1
    return _comment_within(home, first, _head_end(node))


def fields(home: Module, node: ast.ClassDef) -> dict[str, tuple]:  # name -> (type, default, comment)
    "The fields of a named tuple or dataclass"
    found = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and not item.target.id.startswith("_"):
            default = "" if item.value is None else ast.unparse(item.value)
            text = _comment_within(home, item.lineno, item.end_lineno)
            found[item.target.id] = (_type(home, item.annotation), default, text)
    return found


def errors(home: Module, node: ast.FunctionDef) -> list[str]:
    "Errors that the docstring names, or that are raised in the body"
    text = ast.get_docstring(node) or ""
    if same := re.search(r"[Rr]aises as `(\w+)` does", text):
        return errors(home, home.nodes[same[1]])
    said = re.findall(r"`(\w*Error)`", text)
    for item in ast.walk(node):
        if (
            isinstance(item, ast.Raise)
            and isinstance(item.exc, ast.Call)
            and isinstance(item.exc.func, ast.Name)
        ):
            said.append(item.exc.func.id)
    return list(dict.fromkeys(words()[name] for name in said if name in words()))


# directives


def _directive(kind, head, options, body, fence=3):
    marks = "`" * fence
    lines = [
        f"{marks}{{py:{kind}}} {head}",
        *(f":{key}: {value}".rstrip() for key, value in options.items()),
        "",
    ]
    return "\n".join([*lines, *body, marks])


def reference(
    text: str,  # what stands between backticks
) -> str:  # a role of Sphinx, or nothing
    "A reference to the one public name that a text can mean"
    name = text.removesuffix("()")
    sure = text.endswith("()") or "_" in name or name[:1].isupper() or name in module(LIB).public
    return f"{{py:obj}}`{name} <{words()[name]}>`" if sure and name in words() and not name.isupper() else ""


def link(text: str) -> str:
    "References in a docstring or comment"
    return re.sub(r"`([^`\n]+)`", lambda m: reference(m[1]) or m[0], text)


def _text(node):
    return [link(ast.get_docstring(node) or ""), ""]


def _fields_of(home, node):
    lines = [f":param {name}: {text}" for name, text in parameters(home, node).items() if name != "self"]
    if text := result(home, node):
        lines.append(f":returns: {text}")
    lines = [link(line) for line in lines]
    if raised := errors(home, node):
        lines += ["", "{.raises}", "Raises " + ", ".join(f"{{py:obj}}`~{name}`" for name in raised) + "."]
    return lines


def _decorators(node):
    return {ast.unparse(item).partition("(")[0] for item in node.decorator_list}


def _method(home, node):
    "A public method or property of a class"
    marks = _decorators(node)
    if marks & {"property", "functools.cached_property", "cached_property"}:
        kind, text = _type(home, node.returns), result(home, node)
        return _directive("property", node.name, {"type": kind} if kind else {}, [*_text(node), link(text)])
    more = (
        {"classmethod": ""}
        if "classmethod" in marks
        else {"staticmethod": ""}
        if "staticmethod" in marks
        else {}
    )
    skip = 0 if "staticmethod" in marks else 1
    more |= {"async": ""} if isinstance(node, ast.AsyncFunctionDef) else {}
    body = [*_text(node), *_fields_of(home, node)]
    return _directive("method", node.name + signature(home, node, skip), more, body)


def _class(home, node, options):
    "A class with its fields and public methods"
    bases = [ast.unparse(base) for base in node.bases]
    own = fields(home, node)
    declares = "Options" in bases  # its fields are documented as options
    init = next((item for item in node.body if isinstance(item, FUNCTIONS) and item.name == "__init__"), None)
    kind = "exception" if any(base.endswith(("Error", "Exception")) for base in bases) else "class"
    head, body = node.name, _text(node)
    if init is not None:
        head += signature(home, init, 1)
        body += [line for line in _fields_of(home, init) if not line.startswith(":returns")]
    elif own and not declares:
        head += "(" + ", ".join(f"{n}: {t}" + (f" = {d}" if d else "") for n, (t, d, _) in own.items()) + ")"
        body += [link(f":param {name}: {text}") for name, (_, _, text) in own.items() if text]
    if declares:
        body += ["Its fields are the [options](/reference/options.md), which stand there by group.", ""]
    for item in node.body:
        if isinstance(item, FUNCTIONS) and not item.name.startswith("_"):
            body += ["", _method(home, item)]
    return _directive(kind, head, options, body, fence=4)


def _value_of(node, name):
    "What a name is given, also where several are given their values in one line"
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        return node.value.elts[[item.id for item in target.elts].index(name)]
    return node.value


def _data(home, node, name, options):
    "A constant with its value, where that is short"
    value = ast.unparse(_value_of(node, name))
    more = {"value": value} if len(value) <= 90 and "\n" not in value else {}
    text = _comment_within(home, node.lineno, node.end_lineno)
    return _directive("data", name, {**options, **more}, [text[:1].upper() + text[1:], ""])


def entry(
    full: str,  # such as `trainopt_nb.api.fit.fit`
) -> str:  # MyST
    "The documentation of one public name"
    home, name = module(full.rpartition(".")[0]), full.rpartition(".")[2]
    options = {"module": home.name} | ({"canonical": places()[full]} if places()[full] else {})
    node = home.nodes[name]
    if isinstance(node, ast.ClassDef):
        return _class(home, node, options)
    if isinstance(node, FUNCTIONS):
        more = {"async": ""} if isinstance(node, ast.AsyncFunctionDef) else {}
        return _directive(
            "function",
            name + signature(home, node),
            {**options, **more},
            [*_text(node), *_fields_of(home, node)],
        )
    return _data(home, node, name, options)


def summary(full: str) -> str:
    "The first sentence about a public name"
    home, name = module(full.rpartition(".")[0]), full.rpartition(".")[2]
    node = home.nodes[name]
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return (ast.get_docstring(node) or "").split("\n")[0]
    return _comment_within(home, node.lineno, node.end_lineno) or "constant"
