"""The version that `--version` prints; checkpoints and exports carry it too."""

__version__ = "1.0.0.dev0"
