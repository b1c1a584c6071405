"""Keras layers, and functions on tensors, that several models share."""
