"""One self-contained HTML page of figures and pictures, which opens anywhere and loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from zsem.values.files import write_whole

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th { vertical-align: bottom; } td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.best td { background: var(--soft); font-weight: 600; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; }
img { max-width: 100%; image-rendering: pixelated; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for paragraph in summary %}
<p>{{ paragraph }}</p>
{% endfor %}
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for paragraph in section.text %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.rows %}
<div class="wide"><table>
<tr>{% for name in section.rows[0] %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
{% for row in section.rows %}
<tr{% if loop.index0 in section.best %} class="best"{% endif %}>{% for value in row.values() %}<td>{{ value }}</td>
{%- endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}
{% for picture in section.pictures %}
<figure>
<img src="data:image/png;base64,{{ picture.data }}" alt="{{ picture.caption }}" width="{{ picture.width }}">
<figcaption>{{ picture.caption }}</figcaption>
</figure>
{% endfor %}
{% endfor %}
</body>
</html>
""")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with the sentence below it."""

    image: Image.Image
    caption: str

    @property
    def width(self) -> int:
        """Pixels."""
        return self.image.width

    @property
    def data(self) -> str:
        """The picture as PNG, in base64."""
        file = io.BytesIO()
        self.image.save(file, format="PNG")
        return base64.b64encode(file.getvalue()).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, paragraphs, one table, pictures; any of them may be missing but the heading.

    rows: the table, column names to texts; all rows have the same columns.
    best: numbers of the rows that are set off.
    """

    title: str
    text: Sequence[str] = ()
    rows: Sequence[Mapping[str, str]] = ()
    best: Sequence[int] = ()
    pictures: Sequence[Picture] = field(default_factory=tuple)


def write_page(path: str | Path, title: str, sections: Sequence[Section], *, summary: Sequence[str] = ()) -> Path:
    """Write the page, whole or not at all; returns its path. Texts are shown as they are, never as HTML.

    summary: paragraphs that stand before all sections.
    Raises ZsemError where the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _PAGE.render(title=title, summary=summary, sections=sections).encode())
    return path
