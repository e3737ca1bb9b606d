"""Clients, servers and an engine for the protocol tests."""
