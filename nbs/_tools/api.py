"Document public names as MyST directives, with signatures from Sphinx's autodoc and comments from fastcore.docments"

import ast
import inspect
import re
from collections.abc import Callable

from fastcore import docments
from public import FUNCTIONS, LIB, find, link, modules, nodes, places, targets, words
from sphinx.ext.autodoc.preserve_defaults import update_default_value
from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.typing import stringify_annotation

NOT_FOR_READERS = re.compile(r"^(noqa(: \w+)?|fmt: \w+)\s*")


# comments and errors


def _known(text):
    "Shorten the names of ours that have no page"
    return re.sub(rf"{LIB}(?:\.\w+)+", lambda m: m[0] if m[0] in places() else m[0].rpartition(".")[2], text)


def _beside(module, *numbers):
    "Return the comment beside the code in the first of these lines that has one"
    lines = inspect.getsource(modules()[module]).splitlines()
    found = (re.search(r"\S  # (.*)$", lines[number - 1]) for number in numbers)
    return next((text for match in found if match and (text := NOT_FOR_READERS.sub("", match[1]))), "")


def _head(function, node):
    "Return the source of a function without its body, which `docments` would read, too, and does not need"
    lines, first = inspect.getsourcelines(function)
    number, column = node.body[0].lineno - first, node.body[0].col_offset
    if lines[number][:column].strip():  # the body stands on a line of the head
        return "".join(lines)
    return "".join([*lines[:number], f"{lines[number][:column]}pass\n"])


def comments(function: Callable, node: ast.FunctionDef) -> dict[str, str]:  # name or `return` -> comment
    "Collect the comments beside the parameters and the result of a function"
    docments.get_source = lambda asked: _head(asked, node) if asked is function else inspect.getsource(asked)
    found = {name: text or "" for name, text in docments.docments(function, args_kwargs=True).items()}
    last = node.body[0].lineno - 1  # of the head
    args = [arg for arg in ast.iter_child_nodes(node.args) if isinstance(arg, ast.arg)]
    for arg, end in zip(args, [*(after.lineno - 1 for after in args[1:]), last - 1], strict=False):
        if end > arg.lineno:  # a parameter over several lines has its comment on the last one
            found[arg.arg] = found.get(arg.arg) or _beside(function.__module__, end)
    if node.lineno >= last:  # on one line, where a comment is about the result
        found = {}
    found["return"] = found.get("return") or _beside(function.__module__, last)
    return {name: NOT_FOR_READERS.sub("", text) for name, text in found.items() if text}


def fields(cls: type, node: ast.ClassDef) -> dict[str, tuple]:  # name -> (type, default, comment)
    "Describe the fields of a named tuple or dataclass"
    found = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and not item.target.id.startswith("_"):
            kind = _known(stringify_annotation(cls.__annotations__[item.target.id], "smart"))
            default = "" if item.value is None else ast.unparse(item.value)
            found[item.target.id] = (kind, default, _beside(cls.__module__, item.end_lineno, item.lineno))
    return found


def errors(module: str, node: ast.FunctionDef) -> list[str]:  # full names
    "List the errors that a docstring names or a body raises"
    text = ast.get_docstring(node) or ""
    if same := re.search(r"[Rr]aises as `(\w+)` does", text):
        return errors(module, nodes(module)[same[1]])
    raised = [item.exc.func for item in ast.walk(node) if isinstance(getattr(item, "exc", None), ast.Call)]
    named = re.findall(r"`(\w*Error)`", text) + [f.id for f in raised if isinstance(f, ast.Name)]
    return list(dict.fromkeys(words()[name] for name in named if name in words()))


# directives


def _directive(kind, head, options, body, fence=3):
    marks = ("~" if "`" in head else "`") * fence  # a line that opens a fence of backticks cannot hold one
    lines = [f":{key}: {value}".rstrip() for key, value in options.items()]
    return "\n".join([f"{marks}{{py:{kind}}} {head}", *lines, "", *body, marks])


def _function(function, node, bound=False):
    "Return the signature of a function, and its text with comments and errors"
    named = comments(function, node)
    returns = named.pop("return", "")
    update_default_value(function, bound)
    head = _known(stringify_signature(signature(function, bound_method=bound), unqualified_typehints=True))
    lines = [f":param {name}: {text}" for name, text in named.items()]
    lines = [link(line) for line in [*lines, *([f":returns: {returns}"] if returns else [])]]
    if raised := errors(function.__module__, node):
        lines += ["", "{.raises}", "Raises " + ", ".join(f"{{py:obj}}`~{name}`" for name in raised) + "."]
    return head, [link(ast.get_docstring(node) or ""), "", *lines]


def _method(cls, node):
    "Document a method or property of a class"
    static = vars(cls)[node.name]
    if getter := getattr(static, "fget", None) or getattr(static, "func", None):
        kind, text = signature(getter).return_annotation, comments(getter, node).get("return", "")
        options = (
            {} if kind is inspect.Signature.empty else {"type": _known(stringify_annotation(kind, "smart"))}
        )
        body = [link(ast.get_docstring(node) or ""), "", link(text)]
        return _directive("property", node.name, options, body)
    marks = {"classmethod": classmethod, "staticmethod": staticmethod}
    options = {mark: "" for mark, kind in marks.items() if isinstance(static, kind)}
    options |= {"async": ""} if isinstance(node, ast.AsyncFunctionDef) else {}
    head, body = _function(getattr(static, "__func__", static), node, "staticmethod" not in options)
    return _directive("method", node.name + head, options, body)


def _members(cls, node):
    "Return the functions of a class and of its bases in this package: name -> (class that defines it, node)"
    bases = [cls, *(base for base in cls.__mro__[1:] if base.__module__.startswith(LIB))]
    if issubclass(cls, Exception) or any(base.__name__ == "Options" for base in bases):
        bases = [cls]
    bodies = [(base, node if base is cls else nodes(base.__module__).get(base.__name__)) for base in bases]
    found = {}
    for base, body in bodies:
        for item in body.body if body else []:
            if isinstance(item, FUNCTIONS):
                found.setdefault(item.name, (base, item))
    return found


def _class(cls, node, options):
    "Document a class with its fields and public methods"
    defined = _members(cls, node)
    init = defined["__init__"][1] if "__init__" in defined else None
    head, body, own = "", [link(ast.get_docstring(node) or ""), ""], fields(cls, node)
    if init is not None:
        head, (_, _, *more) = _function(cls.__init__, init, bound=True)
        head, body = (
            head.removesuffix(" -> None"),
            [*body, *(line for line in more if ":returns:" not in line)],
        )
    elif any(base.__name__ == "Options" for base in cls.__bases__):
        body += ["Its fields are the [options](/reference/options.md).", ""]
    elif own:
        head = "(" + ", ".join(f"{n}: {t}" + (f" = {d}" if d else "") for n, (t, d, _) in own.items()) + ")"
        body += [link(f":param {name}: {text}") for name, (_, _, text) in own.items() if text]
    for base, item in defined.values():
        body += [] if item.name.startswith("_") else ["", _method(base, item)]
    kind = "exception" if issubclass(cls, Exception) else "class"
    return _directive(kind, node.name + head, options, body, fence=4)


def _data(module, node, name, options):
    "Document a constant, with its value if that is short"
    value = node.value
    if isinstance(value, ast.Tuple) and len(names := targets(node)) > 1:
        value = value.elts[names.index(name)]
    text, comment = ast.unparse(value), _beside(module.__name__, node.end_lineno, node.lineno)
    more = {"value": text} if len(text) <= 90 and "\n" not in text else {}
    return _directive("data", name, {**options, **more}, [comment[:1].upper() + comment[1:], ""])


def entry(
    full: str,  # such as `trainopt_nb.api.fit.fit`
) -> str:  # MyST
    "Document one public name"
    module, name, value, node = find(full)
    options = {"module": module.__name__} | ({"canonical": places()[full]} if places()[full] else {})
    if isinstance(node, ast.ClassDef):
        return _class(value, node, options)
    if isinstance(node, FUNCTIONS):
        head, body = _function(value, node)
        options |= {"async": ""} if isinstance(node, ast.AsyncFunctionDef) else {}
        return _directive("function", name + head, options, body)
    return _data(module, node, name, options)


def summary(full: str) -> str:
    "Return the first sentence about a public name"
    module, _, _, node = find(full)
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return (ast.get_docstring(node) or "").split("\n")[0]
    return _beside(module.__name__, node.end_lineno, node.lineno) or "constant"
