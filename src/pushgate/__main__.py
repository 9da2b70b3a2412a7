"""`python -m pushgate` is the `pushgate` command."""

from pushgate.cli import main

main()
