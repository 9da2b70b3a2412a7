"""`python -m pushgate.cells FILE` is one cell: its supervisor starts it, and is at the other end of the open file."""

import sys

from pushgate.cells.cell import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
