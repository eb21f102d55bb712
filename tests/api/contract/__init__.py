"""A1111's and Forge's REST contract as rows: each route and each field, what it takes, what it does.

`tests/api/test_contract.py` runs every row against the server; `page.py` writes them down as
docs/conformance.md, so what that page says has been tried.
"""
