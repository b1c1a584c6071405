"""Runs the code and the commands of docs/formats.md."""

import re
import shlex

import in_process
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "formats.md").read_text()


def blocks(language) -> str:
  """The page's code blocks in a language, continued lines joined."""
  found = re.findall(r"^```(.*?)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
  texts = [text for name, text in found if name == language]
  return "".join(texts).replace("\\\n", " ")


def test_own_data_the_commands_write_train_and_score(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  exec(blocks("python"), {})
  programs = []
  for command in blocks("").splitlines():
    _, program, *arguments = shlex.split(command)
    if program == "train.py":
      arguments.append("--max_steps=2")

    log = in_process.run(program.removesuffix(".py"), *arguments)

    programs.append(program)
  assert programs == ["train.py", "eval.py"]
  assert "epoch/eval number 2" in log
