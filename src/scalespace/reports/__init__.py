"""Tables and figures, and what every result carries: command, commit, version and seed."""
