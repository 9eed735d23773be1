"""Bytes -> tokens: the tokenizer and the chat layout."""
