"""The Wyoming face: the only package that knows the protocol."""
