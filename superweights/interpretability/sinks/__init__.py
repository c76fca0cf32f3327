"""Attention sinks: where attention goes when there is nothing to say, and what becomes of it without super weights."""
