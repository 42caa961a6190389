"""``python -m featcache``: the command line."""

from .cli.main import main

main()
