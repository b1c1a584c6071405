# TensorFlow ships no types, and the stubs that basedpyright brings refuse
# arguments that TensorFlow takes: everything of it is Any, as all of Keras is.
from typing import Any

def __getattr__(name: str) -> Any: ...
