"""How the files of a model come from a server into a folder, each checked before it counts."""
