"""The verbs of the command line: the parser of each stands beside what it does."""
