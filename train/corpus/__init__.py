"""Corpora: files made once into memory-mapped tokens, with a manifest."""
