"""Makes pages of the site from files outside docs: the README, and source files that pages link."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\]\(((?:\.\./)*)((?:src|tests|benchmarks)/[\w/]+\.py)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text()
        for other, there in PAGES.items():
            text = text.replace(f"]({other}", f"]({there}")
        text = text.replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    for page in files.documentation_pages():
        for _, path in LINK.findall(page.content_string):
            where = f"source/{path}.md"
            if files.get_file_from_path(where) is None:
                text = f"# {path}\n\n```python\n{(ROOT / path).read_text()}```\n"
                hidden = InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, where, content=text, inclusion=hidden))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Leads links to source files to their pages."""
    return LINK.sub(
        lambda match: f"]({match[1].removesuffix('../')}source/{match[2]}.md)", markdown
    )
