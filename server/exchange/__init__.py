"""Conversations with many sites: asking, waiting, judging replies, who took part."""
