"""Runs instead of a build for `pip install .`, see pyproject.toml.

The files of this project have names such as train and models, which are too
common to be put among all packages of an environment.
"""

raise SystemExit(
  "Expected a package to install, received the YouTube-8M starter code, which"
  " runs from its checkout. Use: pip install -r requirements.txt"
)
