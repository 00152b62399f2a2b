"""The command line: thin verbs on the library. Only this layer and the entry points know all of it."""
