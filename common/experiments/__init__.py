"""Compares methods and detectors: runs configs over grids, keeps rows of results, makes tables, tests and figures."""
