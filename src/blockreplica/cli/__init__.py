"""The command line: a thin face of the library. Data goes to stdout, everything said meanwhile to stderr."""
