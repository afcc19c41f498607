"""Works of `bench_batch` beside the product's own, in a module that other processes can import."""

from dataclasses import dataclass

import pyarrow as pa

from rs_lowconf.batch.work import Call

SCHEMA = pa.schema([("id", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Does nothing: what is left is the engine."""

    key: str = "nothing"
    schema: pa.Schema = SCHEMA

    def open(self) -> Call:
        """Return the ids as they came."""
        return lambda table: table.select(["id"])


@dataclass(frozen=True, kw_only=True)
class Read:
    """Reads tiles as a target would get them, and throws them away."""

    key: str = "read"
    schema: pa.Schema = SCHEMA

    def open(self) -> Call:
        """Read each row of a table."""
        from rs_lowconf.data.catalog.reading import read_row, reflectance  # noqa: PLC0415 (torch)
        from rs_lowconf.data.catalog.rows import from_table  # noqa: PLC0415 (torch)

        def read(table: pa.Table) -> pa.Table:
            for row in from_table(table):
                reflectance(row, read_row(row), row.bands)
            return table.select(["id"])

        return read
