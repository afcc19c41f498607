"""`python -m rs_lowconf` is the program `rslow`."""

from rs_lowconf.cli import main

if __name__ == "__main__":
    main()
