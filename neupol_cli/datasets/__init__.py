"""One file a source of data; each turns raw files into a ``neupol_cli.io.hdf5.Dataset``."""
