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
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; }
h2, .lead, ul, p { overflow-wrap: anywhere; } .lead { font-size: 1.1rem; }
ul.points { list-style: none; padding: 0; }
ul.points li { border-left: .3rem solid var(--line); padding: .2rem .8rem; margin: .5rem 0; background: var(--soft); }
ul.points li.good { border-color: #2a9d4f; } ul.points li.fair { border-color: #e0a100; }
ul.points li.poor { border-color: #d1433f; }
.mark { font-weight: 600; } .notes { font-size: .9rem; opacity: .85; }
pre { background: var(--soft); padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; } dl.columns { font-size: .9rem; }
dl.columns dt { display: inline; } dl.columns dd { display: inline; }
dl.columns dd::after { content: ""; display: block; }
td small { display: block; opacity: .75; font-weight: 400; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right; }
th { vertical-align: bottom; } td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.best td { background: var(--soft); font-weight: 600; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; }
img { max-width: 100%; height: auto; image-rendering: pixelated; }
@media (max-width: 34rem) {
  img { image-rendering: auto; }
  .cards table, .cards tbody, .cards tr, .cards td { display: block; width: auto; }
  .cards tr { margin: .8rem 0; } .cards tr:first-child { display: none; }
  .cards td { display: flex; justify-content: space-between; gap: 1rem; padding: .2rem .4rem; }
  .cards td:first-child { font-weight: 600; background: var(--soft); }
  .cards td.empty { display: none; }
  .cards td + td::before { content: attr(data-name); text-align: left; white-space: normal; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for paragraph in summary %}
<p>{{ paragraph }}</p>
{% endfor %}
{% for section in sections %}
<h2{% if section.id %} id="{{ section.id }}"{% endif %}>{{ section.title }}</h2>
{% for paragraph in section.text %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.points %}
<ul class="points">
{% for point in section.points %}
<li{% if point.mark %} class="{{ point.mark }}"{% endif %}>
{% if point.mark %}
<span class="mark">{{ point.mark }}:</span>
{% endif %}
{{ point.text }}{% if point.link %} <a href="#{{ point.link }}">more</a>{% endif %}</li>
{% endfor %}
</ul>
{% endif %}
{% if section.rows %}
<div class="wide{% if section.cards %} cards{% endif %}"><table>
<tr>{% for name in section.rows[0] %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
{% for row in section.rows %}
<tr{% if loop.index0 in section.best %} class="best"{% endif %}>{% for name, value in row.items() %}
{% if section.cards %}
{% set first, more = value.partition("\n")[::2] %}
<td data-name="{{ name }}"{% if not value %} class="empty"{% endif %}><span>{{ first }}
{%- if more %}<small>{{ more }}</small>{% endif %}</span></td>
{%- else %}<td>{{ value }}</td>{% endif %}
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
{% if section.code %}
<pre>{{ section.code }}</pre>
{% endif %}
{% if section.terms %}
<dl{% if section.rows %} class="columns"{% endif %}>
{% for term, meaning in section.terms.items() %}
<dt{% if not section.rows %} id="{{ term }}"{% endif %}>{{ term }}</dt> <dd>{{ meaning }}</dd>
{% endfor %}
</dl>
{% endif %}
{% for note in section.notes %}
<p class="notes">{{ note }}</p>
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
class Point:
    """One sentence of a list.

    mark: "good", "fair" or "poor", which stands before it and colours it; empty for none.
    link: the id of the section that says more.
    """

    text: str
    mark: str = ""
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, paragraphs, one table, pictures; any of them may be missing but the heading.

    id: for links. points: a list below the paragraphs.
    rows: the table, column names to texts; all rows have the same columns. What follows a line break is set small.
    best: numbers of the rows that are set off.
    cards: on a narrow screen each row becomes a block of its own, in place of a table that is wider than the screen.
    code: a command to copy. terms: words and what they mean; beside a table, its columns. notes: small print.
    """

    title: str
    id: str = ""
    text: Sequence[str] = ()
    points: Sequence[Point] = ()
    rows: Sequence[Mapping[str, str]] = ()
    best: Sequence[int] = ()
    cards: bool = False
    pictures: Sequence[Picture] = field(default_factory=tuple)
    code: str = ""
    terms: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_page(path: str | Path, title: str, sections: Sequence[Section], *, summary: Sequence[str] = ()) -> Path:
    """Write the page, whole or not at all; returns its path. Texts are shown as they are, never as HTML.

    summary: paragraphs that stand before all sections.
    Raises ZsemError where the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _PAGE.render(title=title, summary=summary, sections=sections).encode())
    return path
