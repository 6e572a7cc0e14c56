"""The process that answers one query: `python -m fedsim.reporting.query_process MEMORY`.

It is given the table and the query on standard input, gives back an Arrow stream, and sees nothing else. DuckDB's own
limits do not hold inside a single operator (`repeat('x', 2e9)`), so that the system holds them: the memory of the whole
process here, its time by whoever started it.
"""

from __future__ import annotations

import resource
import struct
import sys
from pathlib import Path

import duckdb
import pyarrow as pa

TABLE = "results"
_SEALED = (
    "SET temp_directory = ''",  # a large query fails for memory instead of writing beside the user's files
    "SET threads = 2",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
ANSWERED, REFUSED = b"A", b"R"


def main() -> None:
    source = sys.stdin.buffer
    (length,) = struct.unpack("<Q", source.read(8))
    query = source.read(length).decode()
    with pa.ipc.open_stream(source) as reader:
        table = reader.read_all()
    _bound(int(sys.argv[1]))
    try:
        answer = _answer(table, query, int(sys.argv[1]))
    except (duckdb.Error, pa.ArrowException, MemoryError) as error:
        _reply(REFUSED, (str(error) or "out of memory").encode())
    else:
        _reply(ANSWERED, answer)


def _bound(memory: int) -> None:
    """From here on this process may take so many bytes more; where the system does not say what it has, DuckDB's own
    limit is all that there is."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        taken = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(table: pa.Table, query: str, memory: int) -> bytes:
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        connection.register(TABLE, table)
        connection.sql(f"SET memory_limit = '{memory // 2**20}MiB'")
        for setting in _SEALED:
            connection.sql(setting)
        found = connection.sql(query)
        if found is None:
            raise duckdb.Error(f"no answer; it takes a query such as: select attack, psnr from {TABLE}")
        rows = found.to_arrow_table()
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(buffer.getvalue())


def _reply(kind: bytes, content: bytes) -> None:
    sys.stdout.buffer.write(kind + content)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
