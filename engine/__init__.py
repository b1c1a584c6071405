"""How to train, evaluate and export; reads no flags."""
