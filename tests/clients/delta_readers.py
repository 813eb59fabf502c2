"""DuckDB with its Delta extension, which comes from a package and not from the network."""

import importlib.resources

import duckdb
import duckdb_extension_delta


def duckdb_with_delta():
    extensions = importlib.resources.files(duckdb_extension_delta) / "extensions"
    (extension,) = (extensions / f"v{duckdb.__version__}").iterdir()
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'")
    return connection
