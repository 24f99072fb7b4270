"""What the site needs beside the pages of docs/, which are written for GitHub.

Links that leave docs/ lead to pages made here: README.md and its like as they are, sources as pages that show them.
A page that would load something from the web fails the build.
"""

from __future__ import annotations

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

LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s:#]+)(?=[)#])")
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):(?=<code>)")  # of Sphinx, in docstrings
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*href=\"?(?:https?:)?//")


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
    name = here if here in OUTSIDE else f"docs/{here}"

    def on_the_site(match: re.Match[str]) -> str:
        return posixpath.relpath(_uri(_target(name, match["path"])), posixpath.dirname(here))

    text = markdown.replace("```python no-run", "```python")
    return text if page.file.generated_by and here not in OUTSIDE else LINK.sub(on_the_site, text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings are Markdown but for their roles."""
    return ROLE.sub("", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Fail where a page would load something from the web."""
    found = LOADED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads something from the web: {output[found.start() :][:200]}")
    return output


def _links(name: str, text: str) -> Iterator[str]:
    """What a page links to, as paths in the repository; images, too."""
    for match in LINK.finditer(text):
        target = _target(name, match["path"])
        if (ROOT / target).is_file():
            yield target


def _target(name: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _uri(target: str) -> str:
    """Where a file of the repository stands among the sources of the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return target if target.endswith(AS_THEY_ARE) else f"{target}.md"


def _listing(target: str) -> str:
    language = "python" if target.endswith(".py") else "text"
    source = (ROOT / target).read_text(encoding="utf-8").rstrip()
    return f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n````{language}\n{source}\n````\n"
