"""The syntax of --models of the programs that compare models.

An entry is a class and flags of its own, BiLstmModel:lstm_layers=1; entries are
separated by commas, which values may contain too.
"""

import re

import errors

THESIS_NETWORKS = (
  "DeepNnModel",
  "BiLstmModel",
  "StreamLstmModel",
  "NnStreamLstmModel",
)
"""The four networks of the thesis."""

# An entry begins with the name of a class.
_ENTRY_BORDER = re.compile(r",(?=\s*[A-Z]\w*\s*(?:[:,]|$))")
_FLAG_BORDER = re.compile(r":(?=\w+=)")


def split_entries(text: str, advice: str = "Name each once.") -> list[str]:
  """Splits --models into its entries.

  Args:
    text: entries separated by commas.
    advice: what to do about an entry that is there twice.

  Raises:
    errors.UserError: an entry is there twice, or there is none.
  """
  entries = list(filter(None, map(str.strip, _ENTRY_BORDER.split(text))))
  twice = [entry for entry in entries if entries.count(entry) > 1]
  if twice:
    raise errors.UserError(
      "Expected different models as --models, received"
      f" {twice[0]} twice. {advice}"
    )
  if not entries:
    raise errors.UserError(
      "Expected --models to name at least one model, received none. Name some,"
      " such as --models=DeepNnModel."
    )
  return entries


def split_entry(entry: str) -> tuple[str, dict[str, str]]:
  """Splits an entry into the name of a class and {flag: value}.

  Raises:
    errors.UserError: a flag has no value, or no colon before it.
  """
  model, *settings = map(str.strip, _FLAG_BORDER.split(entry))
  if ":" in model or "=" in model:
    raise errors.UserError(
      "Expected entries such as BiLstmModel:lstm_layers=1:lstm_cells=256 as"
      f" --models, received {entry!r}. Put a colon before each flag, and an"
      " equals sign before its value."
    )
  return model, dict(setting.split("=", 1) for setting in settings)
