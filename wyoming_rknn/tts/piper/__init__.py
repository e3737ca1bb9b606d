"""Piper voices: VITS graphs, cut so that they stream."""
