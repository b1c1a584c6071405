"""Reads HTML pages for tests."""

from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "rect", "path"}


class Page(HTMLParser):
  """The elements and texts of a page.

  Attributes:
    elements: (tag, attributes) in order.
    texts: everything between tags, except in style and script.
    scripts: the texts of script elements.
  """

  def __init__(self, path):
    super().__init__()
    self.elements, self.texts, self.scripts = [], [], []
    self._open = []
    self.source = path.read_text(encoding="utf-8")
    # Where a line may be broken divides no text.
    self.feed(self.source.replace("<wbr>", ""))
    self.close()
    assert self._open == [], "elements are not closed"

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    inside = self._open[-1] if self._open else ""
    if inside == "script":
      self.scripts.append(data)
    elif inside != "style" and data.strip():
      self.texts.append(data.strip())

  def all(self, tag, **attributes):
    """The attributes of the elements of a tag that have these attributes."""
    wanted = {name.rstrip("_"): value for name, value in attributes.items()}
    return [
      found
      for name, found in self.elements
      if name == tag and wanted.items() <= found.items()
    ]

  def addresses(self):
    """What the page loads or links to, other than data: URIs and itself."""
    found = [
      attributes[name]
      for _, attributes in self.elements
      for name in ("src", "href", "poster", "srcset", "data", "action")
      if attributes.get(name)
    ]
    return {
      one for one in found if not one.startswith(("data:image/jpeg;", "#"))
    }
