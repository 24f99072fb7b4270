"""What the site needs beside the pages of docs/, which are written for GitHub.

Links that leave docs/ lead to pages made here: README.md and its like as they are, sources as pages that show them.
A page that would load something from the web fails the build.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")  # pages of the site that do not stand in docs/
AS_THEY_ARE = (".md", ".svg", ".png", ".json")

FENCE = r"^(?P<ticks>`{3,})[^\n]*\n.*?^(?P=ticks)[ \t]*$"
LINK = re.compile(rf"{FENCE}|(?<=\]\()(?P<path>[^)\s:#]+)(?=[)#])", re.MULTILINE | re.DOTALL)  # none inside of code
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):(?=<code>)")  # of Sphinx, in docstrings
LOADED = re.compile(r"<(?:(?:script|img|iframe|source)\b[^>]*\bsrc|link\b[^>]*\bhref)=\"?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of docs/."""
    pages = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    pages |= {name: (ROOT / name).read_text(encoding="utf-8") for name in OUTSIDE}
    linked = {target for name, text in pages.items() for target in _links(name, text)}
    for target in sorted({*OUTSIDE, *(each for each in linked if not each.startswith("docs/"))}):
        if target.endswith(AS_THEY_ARE):
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
        else:
            files.append(File.generated(config, _uri(target), content=_listing(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to pages of the site, and fences say their language alone."""
    here = page.file.src_uri
    name = _name(page.file)

    def on_the_site(match: re.Match[str]) -> str:
        if match["path"] is None:
            return match[0]
        return posixpath.relpath(_uri(_target(name, match["path"])), posixpath.dirname(here))

    return LINK.sub(on_the_site, markdown).replace("```python no-run", "```python")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings are Markdown but for their roles."""
    return ROLE.sub("", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Fail where a page would load something from the web."""
    found = LOADED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads something from the web: {found[0]}")
    return output


def _name(file: File) -> str:
    """The path in the repository of what a page shows."""
    if not file.generated_by:
        return f"docs/{file.src_uri}"
    return file.src_uri if file.src_uri in OUTSIDE else file.src_uri.removesuffix(".md")


def _links(name: str, text: str) -> Iterator[str]:
    """What a page links to, as paths in the repository; images, too."""
    for match in LINK.finditer(text):
        target = _target(name, match["path"]) if match["path"] else ""
        if target and (ROOT / target).is_file():
            yield target


def _target(name: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _uri(target: str) -> str:
    """Where a file of the repository stands among the sources of the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return target if target.endswith(AS_THEY_ARE) else f"{target}.md"


def _listing(target: str) -> str:
    """A page that shows a source, or the cells of a notebook."""
    source = (ROOT / target).read_text(encoding="utf-8").rstrip()
    if target.endswith(".ipynb"):
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(source)["cells"]]
        return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)
    language = "python" if target.endswith(".py") else "text"
    return f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n````{language}\n{source}\n````\n"
