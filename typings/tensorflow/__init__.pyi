# TensorFlow ships no types, and basedpyright's own stubs refuse arguments that
# TensorFlow accepts. So everything in it is Any, as in Keras.
from typing import Any

def __getattr__(name: str) -> Any: ...
