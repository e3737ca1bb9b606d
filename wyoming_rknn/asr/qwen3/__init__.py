"""Qwen3-ASR: a language model that reads embeddings of audio and writes what was said."""
