"""What the site adds to the pages of `docs/`: the README as its start, a page for each attack and defense.

A hook of MkDocs (`mkdocs.yml`). The pages in the repository stay whole, for those who read them there.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
TAKEN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/flower-quickstart/README.md": "flower-quickstart.md",
    "examples/opacus/README.md": "opacus.md",
}
"""Pages that lie outside `docs/`, and where they stand on the site."""

PARTED = {"attacks.md": "attack", "each-defense.md": "defense"}
"""Pages whose sections become pages of their own, and the folder of these."""

LINK = re.compile(r"(\[[^\]]*\])\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the parts of a page below it."""
    for index, entry in enumerate(config.nav or []):
        [(title, page)] = entry.items()
        if isinstance(page, str) and page in PARTED:
            names = list(_sections(_read(ROOT / "docs" / page)))
            config.nav[index] = {title: [page, *(f"{PARTED[page]}/{name}.md" for name in names)]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is not in `docs/`."""
    for source, target in TAKEN.items():
        text = _moved(_read(ROOT / source), source)
        files.append(File.generated(config, target, content=text))
    for page, folder in PARTED.items():
        for name, body in _sections(_read(ROOT / "docs" / page)).items():
            text = f"# {name}\n\n{_deeper(body)}"
            files.append(File.generated(config, f"{folder}/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page, config, files) -> str:
    """Of a page that is parted the table alone; links out of `docs/` as the site has them."""
    name = page.file.src_uri
    if name in PARTED:
        page.meta["hide"] = ["toc"]  # a wide table needs the room
        head = markdown.split("\n## ", 1)[0]
        return re.sub(r"\]\(#([a-z0-9_]+)\)", rf"]({PARTED[name]}/\1.md)", head)
    return markdown if page.file.generated_by else _moved(markdown, f"docs/{name}")


def _sections(text: str) -> dict[str, str]:
    found = re.split(r"(?m)^## (.+)\n", text)
    return dict(zip(found[1::2], found[2::2]))


def _moved(text: str, source: str) -> str:
    """A page's links as seen from `docs/`. A file that the site does not have is named without a link; a link to
    what is nowhere stays, for MkDocs to refuse."""
    folder = (ROOT / source).parent
    site = {*TAKEN.values(), *(path.name for path in (ROOT / "docs").iterdir())}

    def link(match: re.Match[str]) -> str:
        words, path, anchor = match.groups()
        if not path:
            return match[0]
        there = (folder / path).resolve().relative_to(ROOT).as_posix()
        here = TAKEN.get(there, there.removeprefix("docs/"))
        if here in site or not (ROOT / there).exists():
            return f"{words}({here}{anchor or ''})"
        return f"`{there}`"

    return LINK.sub(link, text)


def _deeper(text: str) -> str:
    """Links of a part, which stands in a folder: to its neighbours, and to the pages above."""
    text = re.sub(r"\]\(#([a-z0-9_]+)\)", r"](\1.md)", text)
    return re.sub(r"\]\((?!https?:|#)([a-z-]+\.md)", lambda m: f"](../{m.group(1)}", text)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
