"""The version that `--version` prints; checkpoints and exports store it too."""

__version__ = "1.0.0.dev0"
