"""The command line: one file per group of commands, and the only code that prints.

A command reads its options, calls the library and shows the answer. It never computes a feature or trains a head itself."""
