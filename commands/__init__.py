"""One file a subcommand; each exposes one typer callback and imports its tools when it runs."""
