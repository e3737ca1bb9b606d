"""Waveforms to features: numpy in and out."""
