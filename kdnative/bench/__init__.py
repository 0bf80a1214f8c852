"""The suites behind ``kdnative bench``: ceilings of the machine, peers, cases. Only the command line imports them."""
