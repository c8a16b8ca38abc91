"""`python -m ggufkit`."""

from ggufkit.cli import main

if __name__ == "__main__":
    main(prog_name="ggufkit")
