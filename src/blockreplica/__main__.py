"""`python -m blockreplica` is the program too."""

from .cli.main import main

main()
