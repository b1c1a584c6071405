"""Makes HTML pages of the templates in reports/templates/.

Each page is one file without any address of a network: styles and scripts are
included in it, and pictures are data: URIs. Everything from outside is escaped.
"""

import base64
import functools
import os
import re
import types
from urllib.parse import quote

import errors
from engine.data_files import is_local
from engine.files import text_written_aside
from version import __version__

# Where a long name may continue in the next line.
_BREAKS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[:,_])(?=\w)")

TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")


REPORT_REQUIREMENTS = "requirements/report.txt"
"""What reports with pictures need."""


def require_report_packages() -> None:
  """Asks for what fills and draws a report; call it before long work.

  Raises:
    errors.UserError: it is not installed.
  """
  require_jinja2(REPORT_REQUIREMENTS)
  try:
    import matplotlib  # noqa: F401
  except ImportError as error:
    raise errors.UserError(
      "Expected matplotlib for pictures, but it is not installed. Run pip"
      f" install -r {REPORT_REQUIREMENTS}"
    ) from error


def require_jinja2(
  requirements: str = "requirements/videos.txt",
) -> types.ModuleType:
  """The library that fills templates; programs ask for it before long work.

  Args:
    requirements: the file that names it, for the error.

  Raises:
    errors.UserError: it is not installed.
  """
  try:
    import jinja2
  except ImportError as error:
    raise errors.UserError(
      "Expected jinja2 for HTML pages, but it is not installed. Run pip install"
      f" -r {requirements}"
    ) from error
  return jinja2


@functools.cache
def make_environment(requirements: str = "requirements/videos.txt"):
  """The jinja2.Environment of all pages; a missing value is an error.

  It is made once, so that each template is compiled once.

  Args:
    requirements: see require_jinja2.

  Raises:
    errors.UserError: jinja2 is not installed.
  """
  jinja2 = require_jinja2(requirements)
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.globals["version"] = __version__
  environment.globals["parts_of"] = _BREAKS.split
  return environment


def write_page(path: str, template: str, values: dict) -> None:
  """Fills a template and puts the page into place whole.

  Args:
    path: the HTML file.
    template: name of a file in TEMPLATES.
    values: what the template needs.

  Raises:
    errors.UserError: jinja2 is not installed.
    jinja2.UndefinedError: a value is missing.
  """
  stream = make_environment().get_template(template).stream(values)
  stream.enable_buffering(1000)
  with text_written_aside(path) as file:
    for text in stream:
      file.write(text)


def jpeg_uri(image: bytes) -> str:
  """A JPEG file's bytes as a data: URI; empty for no bytes."""
  if not image:
    return ""
  return "data:image/jpeg;base64," + base64.b64encode(image).decode("ascii")


def relative_address(path: str, page: str) -> str:
  """The address of a file in a link of a page.

  Args:
    path: of the file, as named from the working folder.
    page: path of the page.

  Returns:
    A relative address, which keeps working if both are moved together. Empty
    for files on remote file systems, which no browser opens.
  """
  if not is_local(path) or not is_local(page):
    return ""
  folder = os.path.dirname(os.path.abspath(page))
  # Names of files are bytes; quote also escapes a colon, so that no name is
  # read as a scheme.
  return quote(os.fsencode(os.path.relpath(os.path.abspath(path), folder)))
