"""Every relative link in the Markdown pages leads to a file and a heading."""

import re

import pytest
from conftest import REPOSITORY

PAGES = sorted(
  path.relative_to(REPOSITORY).as_posix()
  for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]
)


def without_code(page) -> str:
  """The text of a page without its code blocks."""
  return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page) -> set[str]:
  """The names under which GitHub links to the headings of a page."""
  headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
  return {
    re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
    for heading in headings
  }


def links(page) -> list[str]:
  """The targets of a page's links that are not URLs."""
  targets = re.findall(r"\]\(([^)\s]+)\)", without_code(page))
  return [target for target in targets if not re.match(r"\w+:", target)]


def test_links_and_anchors_by_hand():
  page = """# A page
See [one](docs/a.md#b-c), [two
lines](#a-page) and [elsewhere](https://example.org).
```
[not](a_link)
```
## `train.py`, again
"""
  assert links(page) == ["docs/a.md#b-c", "#a-page"]
  assert anchors(page) == {"a-page", "trainpy-again"}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
  path = REPOSITORY / page
  broken = []
  for link in links(path.read_text()):
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if not target.exists() or (
      anchor and anchor not in anchors(target.read_text())
    ):
      broken.append(link)
  assert not broken


def test_every_page_is_linked_from_the_readme():
  named = {
    link.partition("#")[0]
    for link in links((REPOSITORY / "README.md").read_text())
  }
  assert set(PAGES) - {"README.md"} <= named
