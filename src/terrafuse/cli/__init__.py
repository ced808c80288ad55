"""The verbs on the command line. Nothing imports this room."""
