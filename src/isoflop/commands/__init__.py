"""Commands of the command line, by subject; `cli` puts them together."""
