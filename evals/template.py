"""Template: the pages of reports, complete in themselves, from evals/templates/."""

from typing import Any

import jinja2
from markupsafe import Markup


def environment(
    undefined: type[jinja2.Undefined] = jinja2.StrictUndefined,
) -> jinja2.Environment:
    """How all pages are written; `undefined` is what a missing value does."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("evals", "templates"),
        autoescape=True,
        undefined=undefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(templates: jinja2.Environment, name: str, **values: Any) -> str:
    """A page as HTML, its style sheet inside: the same values give the same bytes."""
    css = templates.get_template("report.css").render()
    return templates.get_template(name).render(css=Markup(css), markup=Markup, **values)
