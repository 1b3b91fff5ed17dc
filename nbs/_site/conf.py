"Settings of Sphinx; the pages come from nbs/_tools/docs.py"

import ast
import importlib
import pkgutil
import re
from functools import cache, cached_property
from pathlib import Path

from docutils import frontend
from docutils.nodes import Node
from furo.navigation import get_navigation_tree
from myst_parser.mdit_to_docutils import base as myst_documents
from pygments.lexer import bygroups
from pygments.lexers import PythonLexer
from pygments.token import Keyword, Operator, String, Text
from sphinx.builders import html as builders_html
from sphinx.domains.python import PythonDomain
from sphinx.environment.adapters.toctree import TocTree
from sphinx.highlighting import PygmentsBridge

project = "trainopt_nb"
author = "The trainopt_nb authors"
copyright = "2026 onwards, the trainopt_nb authors"
html_title = "trainopt_nb"
language = "en"

extensions = ["myst_nb", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["files"]
suppress_warnings = ["mystnb.mime_type"]  # an output that no page can show is shown as text

nb_execution_mode = "off"  # outputs are stored
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_ipywidgets_js = {}  # a picture stands for every widget
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries = False
viewcode_line_numbers = False
viewcode_follow_imported_members = False
nitpicky = True  # a broken reference to a name of ours fails the build
nitpick_ignore_regex = [("py:.*", r"(?!trainopt_nb).*")]  # names of others are not looked up

BRAND = ("color-brand-primary", "color-brand-content", "color-brand-visited")  # the blue of the panel
copybutton_exclude = ".linenos, .gp, .go"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_search_scorer = str(Path(__file__).parent / "_static/scorer.js")
html_domain_indices = False
html_favicon = "_static/mark.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "light_logo": "mark.svg",
    "dark_logo": "mark.svg",
    "light_css_variables": {
        **dict.fromkeys(BRAND, "#1565b8"),
        "color-foreground-primary": "#1f1f1f",
        "color-background-secondary": "#f7f8fa",
        "color-api-name": "#1f1f1f",
        "color-api-pre-name": "#666666",
        "color-api-keyword": "#666666",
        "color-inline-code-background": "#f2f4f7",
        "color-ground-code": "#f6f7f9",
        "color-highlight-on-target": "#e6f0fa",
    },
    "dark_css_variables": {
        **dict.fromkeys(BRAND, "#64b5f6"),
        "color-foreground-primary": "#e3e3e3",
        "color-api-name": "#e6e6e6",
        "color-api-pre-name": "#9a9a9a",
        "color-api-keyword": "#9a9a9a",
        "color-inline-code-background": "#222529",
        "color-ground-code": "#1a1c1f",
        "color-highlight-on-target": "#17293b",
    },
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


class CellLexer(PythonLexer):
    "Python with magics, where the body of `%%trainopt` is Python too"

    name = "IPython cell"
    tokens = {  # noqa: RUF012 as Pygments wants it
        **PythonLexer.tokens,
        "root": [
            (r"(%%?)(\w+)([^\n]*)(\n|\Z)", bygroups(Operator, Keyword, String, Text)),
            (r"(!)([^\n]*)(\n|\Z)", bygroups(Operator, String, Text)),
            *PythonLexer.tokens["root"],
        ],
    }


def import_package(app, env, docnames):
    "Import what `viewcode` looks at before Sphinx may fork: each of its processes would import PyTorch anew"
    for module in pkgutil.walk_packages(importlib.import_module(project).__path__, f"{project}."):
        importlib.import_module(module.name)


@cache
def find_source(app, name):
    "Return the source of a module, and where it defines classes and functions: Sphinx's own parser takes five times as long"
    source = Path(importlib.import_module(name).__file__).read_text(encoding="utf-8")
    places, nodes = {}, [("", ast.parse(source))]
    for inside, node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            kind = "class" if isinstance(node, ast.ClassDef) else "def"
            begin = min(part.lineno for part in (node, *node.decorator_list))
            places[inside + node.name] = (kind, begin, node.end_lineno)
            inside += f"{node.name}."
        if isinstance(node, (ast.Module, ast.ClassDef, ast.If, ast.Try)):
            nodes += [(inside, child) for child in ast.iter_child_nodes(node)]
    return source, places


class QuickPythonDomain(PythonDomain):
    "For each `str` or `Path` of a signature, Sphinx looks whether any of thousands of names ends with it; none of ours does"

    @cached_property
    def last_words(self):
        return {name.rpartition(".")[2] for name in self.objects}

    def find_obj(self, env, modname, classname, name, type, searchmode=0):
        if name.removesuffix("()").rpartition(".")[2] not in self.last_words:
            return []
        return super().find_obj(env, modname, classname, name, type, searchmode)


def find_nodes(node, kind):
    "Find nodes of a type as docutils does: its generators, one inside the other for each level, take three times as long"
    levels = [iter((node,))]
    while levels:
        for each in levels[-1]:
            if isinstance(each, kind):
                yield each
            if each.children:
                levels.append(iter(each.children))  # which a reader may change meanwhile
                break
        else:
            levels.pop()


class QuickPygments(PygmentsBridge):
    "Sphinx makes a formatter, with all its styles, for each piece of code"

    @cached_property
    def made(self):
        return {}

    def get_formatter(self, **kwargs):
        key = repr(kwargs)
        if key not in self.made:
            self.made[key] = super().get_formatter(**kwargs)
        return self.made[key]


@cache
def usual_settings(*components):
    "Return docutils' settings: to collect them anew takes longer than to parse most texts"
    return frontend.get_default_settings(*components)


# flags and names that are short stand in one line, and long ones break behind dots and the like

WORD = re.compile(r'<span class="pre">([^<]+)</span>')
WHOLE = 26  # letters that fit beside others on a phone


def whole_words(match):
    text = match[1]
    if len(text) <= WHOLE:
        return f'<span class="pre whole">{text}</span>'
    return f'<span class="pre">{re.sub(r"(?<=[./_=,])(?=[^./_=,;])", "<wbr>", text)}</span>'


def keep_words_whole(app, page, template, context, doctree):
    if "body" in context and not page.startswith("_modules"):
        context["body"] = WORD.sub(whole_words, context["body"])


# the sidebar: Furo resolves and parses the tree of all pages anew for each page, two thirds of the time of a build

ENTRY = re.compile(
    r'(<li class="toctree-l\d+[^>]*><a class="[^"]*" href=")([^"]*)\.html(">.*?</a>(?:<input [^>]*(?=/>))?)'
)


@cache
def sidebar(app):
    "Return the sidebar with all pages, as the front page shows it"
    every = {"collapse": False, "titles_only": True, "maxdepth": -1, "includehidden": True}
    nodes = TocTree(app.env).get_toctree_for(app.config.root_doc, app.builder, **every)
    return get_navigation_tree(app.builder.render_partial(nodes)["fragment"])


STILL = """<script>
(() => {  // the next page opens with the sidebar as this one left it
  const box = document.currentScript.closest(".sidebar-scroll");
  const toggles = [...box.querySelectorAll("input[type=checkbox]")];
  try {
    const kept = JSON.parse(sessionStorage.getItem("sidebar")) ?? { open: [], top: 0 };
    for (const toggle of toggles) if (kept.open.includes(toggle.id)) toggle.checked = true;
    box.scrollTo({ top: kept.top, behavior: "instant" });
  } catch {}  // a browser may refuse storage
  const current = box.querySelector(".current-page > a")?.getBoundingClientRect(), seen = box.getBoundingClientRect();
  if (current && (current.bottom <= seen.top || current.top >= seen.bottom)) box.scrollBy({ top: current.top - seen.top - seen.height / 3, behavior: "instant" });
  addEventListener("pagehide", () => {
    const open = toggles.filter((toggle) => toggle.checked).map((toggle) => toggle.id);
    try { sessionStorage.setItem("sidebar", JSON.stringify({ open, top: box.scrollTop })); } catch {}
  });
})();
</script>"""


def leave_out_sidebar(app, page, template, context, doctree):
    context.pop("toctree", None)


@cache
def sidebar_in(app, folder):
    "Return the sidebar as the pages of a folder link it, and the entry of each page in it"
    entries = {}

    def entry(match):
        before, name, after = match.groups()
        entries[name] = f"{before}{app.builder.get_relative_uri(f'{folder}_', name)}{after}"
        return entries[name]

    return ENTRY.sub(entry, sidebar(app)), entries


def add_sidebar(app, page, template, context, doctree):
    "Mark the page in the sidebar, and open those above it"
    folder, slash, _ = page.rpartition("/")
    tree, entries = sidebar_in(app, folder + slash)
    for name in TocTree(app.env).get_toctree_ancestors(page):  # and the page itself
        if name in entries:
            entry = re.sub(r'class="toctree-l\d+', r"\g<0> current", entries[name], count=1)
            entry = re.sub(r"<input .*", r'\g<0> checked=""', entry)
            if name == page:
                entry = re.sub(
                    r'"><a class="([^"]*)" href="[^"]*',
                    r' current-page"><a class="current \1" href="#',
                    entry,
                )
            tree = tree.replace(entries[name], entry)
    context["furo_navigation_tree"] = tree + STILL


def setup(app):
    Node._fast_findall = find_nodes
    builders_html.PygmentsBridge = QuickPygments
    myst_documents.get_default_settings = lambda *components: usual_settings(*components).copy()
    app.connect("env-before-read-docs", import_package)
    app.connect("viewcode-find-source", find_source)
    app.connect("html-page-context", keep_words_whole)
    app.connect("html-page-context", leave_out_sidebar, priority=400)  # Furo has 500
    app.connect("html-page-context", add_sidebar, priority=600)
    app.add_domain(QuickPythonDomain, override=True)
    app.add_lexer("ipython3", CellLexer)
    app.add_lexer("ipython", CellLexer)
