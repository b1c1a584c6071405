# PyTorch is not in the environment of the types; see requirements/torch.txt.
from typing import Any

def __getattr__(name: str) -> Any: ...
