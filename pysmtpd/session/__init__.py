"""Conversations, one each, without any I/O: bytes, answers and the time go in, effects come out."""
