"""Trains a model under one backend of Keras; each process has only this one."""
