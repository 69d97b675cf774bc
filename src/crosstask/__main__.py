"""`python -m crosstask` is the `crosstask` command."""

from crosstask.cli import main

main()
