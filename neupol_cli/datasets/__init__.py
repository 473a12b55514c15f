"""One file a source of data; each turns raw files into a ``neupol_cli.hdf5.Dataset``."""
