"""The format page says the same as the contracts' builds, and its tables are SQL."""

import sqlite3

import pytest

from engine.ledger import format
from engine.ledger.chain.contracts import CONTRACTS, artefact


@pytest.mark.parametrize("journal", [format.RUN, format.STUDY], ids=lambda journal: journal.file)
def test_the_schema_follows_from_the_columns(journal: format.Journal):
    connection = sqlite3.connect(":memory:")
    for name, table in journal.tables.items():
        connection.execute(f"CREATE TABLE {name} ({table.sql})")
        found = connection.execute(f"PRAGMA table_info({name})").fetchall()
        assert [row[1] for row in found] == list(table.columns)
        assert tuple(row[1] for row in sorted(found, key=lambda row: row[5]) if row[5]) == table.keys[0]
        nullable = {row[1] for row in found if not row[3]}
        assert nullable == {name for name, kind in table.columns.items() if "NOT NULL" not in kind}
    connection.close()


@pytest.mark.parametrize("purposes", [format.PURPOSES, format.STUDY_PURPOSES])
def test_every_purpose_names_a_function_of_its_contract(purposes: dict[str, format.Purpose]):
    for purpose, (contract, function, *_) in purposes.items():
        assert contract in CONTRACTS
        functions = {item["name"] for item in artefact(contract)["abi"] if item["type"] == "function"}
        assert function in functions or (function == "" and purpose.startswith("deploy"))


def test_the_document_of_the_format_names_every_table():
    for table in (*format.RUN.tables, *format.STUDY.tables):
        assert f"\n    {table} " in format.__doc__
